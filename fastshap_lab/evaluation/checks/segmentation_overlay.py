"""Maps over the images that they explain, and their segmentation into object and background."""

import math

from fastshap_lab.attribution import upsample
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import CHUNK
from fastshap_lab.evaluation.section import Section
from fastshap_lab.images import normalize_map
from fastshap_lab.metrics.segmentation import foreground
from fastshap_lab.report import overlays


class SegmentationOverlay(Section):
    """Each method's map over the image, and the pixels whose value is above Otsu's threshold.

    Reference: Coporan, Visualization techniques for improving explainability in visual transformers, section 5.
    """

    kind = "segmentation_overlay"

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a figure for each pipeline."""
        indices = evaluation.evaluated[: evaluation.settings.images_shown]
        shown, figures = math.ceil(len(indices) / CHUNK), {}  # maps are cached in whole chunks
        chunks = evaluation.chunks(evaluation.evaluated)[:shown]
        for pipeline in evaluation.pipelines:
            classes = evaluation.classes(pipeline)[: shown * CHUNK]
            targets, maps, cut = classes[: len(indices), 0], {}, {}
            for method, applied in evaluation.methods(pipeline).items():
                found = applied.maps(chunks, classes)[: len(indices), 0]
                large = normalize_map(upsample(found, pipeline.grid.image_size))
                maps[method], cut[method] = large.numpy(), foreground(large).numpy()
            titles = [evaluation.class_names[target] for target in targets.tolist()]
            figures[f"{name}-{pipeline.name}", pipeline.name] = overlays(
                evaluation.pictures(indices), maps, cut, titles
            )
        text = "Maps of the predicted class, whose name is above the image, and the pixels above Otsu's threshold."
        evaluation.report.add(self.titled("Maps as segmentations", name), text, figures=figures)
