"""How well a map, cut at a threshold, segments the object."""

import torch
from jaxtyping import Bool, Float, Int
from skimage.filters import threshold_otsu
from torch import Tensor

from fastshap_lab.components import Share
from fastshap_lab.images import normalize_map
from fastshap_lab.metrics.per_image import PerImage

VOID = 255


def foreground(maps: Float[Tensor, "B H W"], threshold: float | None = None) -> Bool[Tensor, "B H W"]:
    """Return the pixels above a threshold of each map, stretched to [0, 1]; none of a constant map.

    Args:
        maps: At image size.
        threshold: The same for every map; by default Otsu's, each map's own, from 256 bins (scikit-image).

    Reference: Otsu, A threshold selection method from gray-level histograms, 1979.
    """
    maps = normalize_map(maps.double())
    if threshold is not None:
        return maps > threshold
    thresholds = [threshold_otsu(values.cpu().numpy(), nbins=256) if values.amax() > 0 else 0.0 for values in maps]
    return maps > maps.new_tensor(thresholds)[:, None, None]


def segmentation_scores(
    predicted: Bool[Tensor, "B H W"], truth: Bool[Tensor, "B H W"], valid: Bool[Tensor, "B H W"]
) -> Float[Tensor, "B 3"]:
    """Return IoU, F1 and pixel accuracy of each image's foreground, over valid pixels, in percent.

    IoU and F1 are 100 where neither predicts nor has any foreground. All are NaN without a valid pixel.
    """
    right, wrong = (predicted == truth) & valid, (predicted != truth) & valid
    hits, right, wrong = (part.sum(dim=(1, 2)).double() for part in (right & truth, right, wrong))
    iou, f1 = hits / (hits + wrong), 2 * hits / (2 * hits + wrong)  # false positives and false negatives are wrong
    scores = torch.stack([iou, f1], dim=1).masked_fill((hits + wrong == 0).unsqueeze(1), 1)
    accuracy = right / (right + wrong)  # 0 / 0 is NaN: nothing to compare
    return 100 * torch.cat([scores, accuracy.unsqueeze(1)], dim=1).masked_fill(accuracy.isnan().unsqueeze(1), torch.nan)


class Segmentation(PerImage):
    """IoU, F1 and pixel accuracy of maps cut at a threshold, in percent, averaged per image.

    Beside them those of calling everything foreground, which takes no map at all. Images that the classifier is not
    sure of are undefined, as are maps that are not finite: ``num_images`` less ``nan_count`` remain.

    Args:
        confidence: Images count whose highest probability is greater than this.
        threshold: Of maps stretched to [0, 1]; by default Otsu's.

    Reference: Coporan, Visualization techniques for improving explainability in visual transformers, sections 3.2, 5.3.
    """

    columns = ("iou", "f1", "accuracy", "everything_iou", "everything_f1", "everything_accuracy")
    higher_is_better = True
    feed = "regions"
    note = "Of images whose most probable class is their label, where they have one."

    def __init__(self, confidence: Share = 0.85, threshold: Share | None = None) -> None:
        super().__init__()
        self.confidence, self.threshold = confidence, threshold

    def update(
        self,
        maps: Float[Tensor, "B H W"],
        labels: Int[Tensor, "B H W"],
        target: Int[Tensor, " B"],
        probability: Float[Tensor, " B"],
    ) -> None:
        """Add images.

        Args:
            maps: At image size.
            labels: Class of every pixel; 255 is void, and ignored.
            target: Class explained, as pixels are labelled; they are the foreground.
            probability: The classifier's highest.
        """
        truth, valid = labels == target[:, None, None], labels != VOID
        scores = segmentation_scores(foreground(maps, self.threshold), truth, valid)
        scores = scores.masked_fill(~maps.isfinite().all(dim=(1, 2), keepdim=True).squeeze(2), torch.nan)
        everything = segmentation_scores(torch.ones_like(truth), truth, valid)
        unsure = ~(probability > self.confidence)
        self.rows.append(torch.cat([scores, everything], dim=1).masked_fill(unsure.unsqueeze(1), torch.nan))
