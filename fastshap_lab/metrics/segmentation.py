"""How well a thresholded map segments the object."""

import torch
from jaxtyping import Bool, Float, Int
from skimage.filters import threshold_otsu
from torch import Tensor

from fastshap_lab.components import Share
from fastshap_lab.images import normalize_map
from fastshap_lab.metrics.per_image import PerImage

VOID = 255


def foreground(maps: Float[Tensor, "B H W"], threshold: float | None = None) -> Bool[Tensor, "B H W"]:
    """Return the pixels above a threshold of each map, after stretching it to [0, 1]; none if the map is constant.

    Args:
        maps: Maps at image size.
        threshold: Threshold in [0, 1] for all maps; by default each map's own Otsu threshold, from 256 bins
            (scikit-image).

    Reference: Otsu, A threshold selection method from gray-level histograms, 1979.

    Example:
        >>> foreground(torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]), threshold=0.5).tolist()
        [[[False, False, True, True]]]
    """
    maps = normalize_map(maps.double())
    if threshold is not None:
        return maps > threshold
    thresholds = [threshold_otsu(values.cpu().numpy(), nbins=256) if values.amax() > 0 else 0.0 for values in maps]
    return maps > maps.new_tensor(thresholds)[:, None, None]


def segmentation_scores(
    predicted: Bool[Tensor, "B H W"], truth: Bool[Tensor, "B H W"], valid: Bool[Tensor, "B H W"]
) -> Float[Tensor, "B 3"]:
    """Return IoU, F1 and pixel accuracy of each image's foreground over valid pixels, in percent.

    IoU and F1 are 100 where neither mask has any foreground. All are NaN without a valid pixel.

    Args:
        predicted: Predicted foreground.
        truth: True foreground.
        valid: Pixels that count.

    Example:
        >>> predicted = torch.tensor([[[True, True, False, False]]])
        >>> truth = torch.tensor([[[True, False, False, False]]])
        >>> [round(score, 1) for score in segmentation_scores(predicted, truth, torch.ones_like(truth))[0].tolist()]
        [50.0, 66.7, 75.0]
    """
    right, wrong = (predicted == truth) & valid, (predicted != truth) & valid
    hits, right, wrong = (part.sum(dim=(1, 2)).double() for part in (right & truth, right, wrong))
    iou, f1 = hits / (hits + wrong), 2 * hits / (2 * hits + wrong)  # wrong = false positives + false negatives
    scores = torch.stack([iou, f1], dim=1).masked_fill((hits + wrong == 0).unsqueeze(1), 1)
    accuracy = right / (right + wrong)  # NaN (0 / 0) without a valid pixel
    return 100 * torch.cat([scores, accuracy.unsqueeze(1)], dim=1).masked_fill(accuracy.isnan().unsqueeze(1), torch.nan)


class Segmentation(PerImage):
    """IoU, F1 and pixel accuracy of thresholded maps in percent, averaged over images.

    The columns ``everything_…`` are the scores of predicting foreground everywhere, which needs no map. All are
    undefined for images of which the classifier is not sure and for maps that are not finite, so ``num_images`` minus
    ``nan_count`` images count.

    Args:
        confidence: Threshold in [0, 1]; only images whose highest probability is above it count.
        threshold: Threshold of maps stretched to [0, 1]; by default Otsu's.

    Reference: Coporan, Visualization techniques for improving explainability in visual transformers, sections 3.2, 5.3.

    Example:
        >>> metric = Segmentation(threshold=0.5)
        >>> maps, labels = torch.tensor([[[0.0, 1.0, 3.0, 4.0]]]), torch.tensor([[[0, 0, 7, 7]]])
        >>> metric.update(maps, labels, target=torch.tensor([7]), probability=torch.tensor([0.9]))
        >>> found = metric.compute()
        >>> found["iou"], found["everything_iou"]
        (100.0, 50.0)
    """

    columns = ("iou", "f1", "accuracy", "everything_iou", "everything_f1", "everything_accuracy")
    higher_is_better = True
    feed = "regions"
    note = "It covers images whose most probable class is their label, and images without a label."

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
            maps: Maps at image size.
            labels: Class of each pixel; 255 is void and ignored.
            target: Class that each image is explained for; the pixels of this class are the foreground.
            probability: The classifier's highest probability.
        """
        truth, valid = labels == target[:, None, None], labels != VOID
        scores = segmentation_scores(foreground(maps, self.threshold), truth, valid)
        scores = scores.masked_fill(~maps.isfinite().all(dim=(1, 2), keepdim=True).squeeze(2), torch.nan)
        everything = segmentation_scores(torch.ones_like(truth), truth, valid)
        unsure = ~(probability > self.confidence)
        self.rows.append(torch.cat([scores, everything], dim=1).masked_fill(unsure.unsqueeze(1), torch.nan))
