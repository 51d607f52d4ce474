"""Similarity of the masks that ViT-CX makes from features."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fastshap_lab.attribution.base import restoring
from fastshap_lab.attribution.features import find_layers, forward_with_features
from fastshap_lab.attribution.vit_cx import ViTCX, cluster, plane_masks
from fastshap_lab.components import Count
from fastshap_lab.evaluation.checks.by_image import of_images, vit_cx, vit_cx_key
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import with_intervals
from fastshap_lab.report import densities

BINS = 50


def similarities(masks: Tensor) -> Tensor:
    """Return the cosine similarities in [0, 1] of all pairs of masks (M, H, W); no mask may be zero everywhere."""
    unit = nn.functional.normalize(masks.flatten(1).double(), dim=1)
    first, second = torch.triu_indices(len(masks), len(masks), offset=1)
    return (unit @ unit.T)[first, second].clamp(0, 1)


class MaskSimilarity(Section):
    """Distribution of the cosine similarity between two masks of an image, and the number of clusters of masks.

    The masks of a vision transformer are those of ViT-CX. Those of a convolutional network are made in the same way
    from its last convolutional features, and are clustered with the threshold of a plain vision transformer.

    Reference: Xie et al., ViT-CX, IJCAI 2023, arXiv:2211.03064, figure 4 and section 3.

    Args:
        images: Maximum number of evaluated images.
    """

    kind = "mask_similarity"
    uncounted = ("images",)

    def __init__(self, images: Count = 100) -> None:
        self.images = images

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add the distributions and numbers of masks."""
        rows, counts, resamples = [], {}, evaluation.settings.bootstrap
        edges = np.linspace(0, 1, BINS + 1)
        for pipeline in evaluation.pipelines:
            found = self._of(evaluation, pipeline)
            columns = {column: found[column] for column in ("masks", "similarity", "clusters")}
            row = {"model": pipeline.name, "images": len(found["masks"])}
            rows.append(row | with_intervals(columns, resamples))
            if found["histogram"].any():
                counts[pipeline.name] = found["histogram"].sum(dim=0).numpy()
        caption = "All pairs of masks of the same image, over all images"
        evaluation.report.add(
            self.titled("Similarity of feature masks", name),
            "Each channel of features becomes a mask of the image. Similarity is the cosine of two masks, averaged "
            "over all pairs of an image; it is 1 if all masks are alike. Clusters is the number of masks after similar "
            "ones are merged. Intervals are 95 % bootstrap intervals over images.",
            {(name, "Masks per image"): pd.DataFrame(rows)},
            {(name, caption): densities(counts, edges, "cosine similarity")} if counts else {},
        )

    def _of(self, evaluation: Evaluation, pipeline: Pipeline) -> dict[str, Tensor]:
        def make(place: slice) -> dict[str, Tensor]:
            rows = []
            for image in evaluation.images(evaluation.evaluated[place]):
                masks, threshold, linkage = feature_masks(evaluation, pipeline.classifier, image)
                found = similarities(masks)
                rows.append(
                    {
                        "masks": torch.tensor(len(masks)),
                        "clusters": torch.tensor(len(cluster(masks, threshold, linkage))),
                        "similarity": found.mean(),  # NaN if there is a single mask
                        "histogram": torch.histc(found, BINS, 0, 1),
                    }
                )
            return {name: torch.stack([row[name].cpu().double() for row in rows]) for name in rows[0]}

        return of_images(self, evaluation, pipeline, self.images, {"vit_cx": vit_cx_key(evaluation)}, make)


def feature_masks(evaluation: Evaluation, classifier: nn.Module, image: Tensor) -> tuple[Tensor, float, str]:
    """Return ViT-CX's masks (M, H, W) of an image, and the threshold and the linkage with which they are clustered.

    Args:
        evaluation: The evaluation that the methods were chosen for.
        classifier: Network that computes the features.
        image: Image (C, H, W) in [0, 1].
    """
    if ViTCX.supports(classifier) is None:
        method = vit_cx(evaluation, classifier, masks="features")
        return method.image_masks(image), method.threshold, method.linkage
    with restoring(classifier), torch.no_grad():
        _, features, to_feature_map = forward_with_features(classifier, find_layers(classifier), image.unsqueeze(0))
        return plane_masks(to_feature_map(features)[0], (image.shape[1], image.shape[2])), 0.1, "complete"
