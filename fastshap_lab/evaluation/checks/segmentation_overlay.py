"""Maps over the images they explain, and cut into object and ground."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from fastshap_lab.attribution import upsample
from fastshap_lab.evaluation.base import Evaluation
from fastshap_lab.evaluation.checks.base import Builder, Check
from fastshap_lab.images import normalize_map
from fastshap_lab.metrics.segmentation import foreground
from fastshap_lab.report import overlays


class SegmentationOverlay(Check):
    """Each method's map over the image, and what of it lies above Otsu's threshold.

    Reference: Coporan, Visualization techniques for improving explainability in visual transformers, section 5.
    """

    name = "segmentation_overlay"

    def __call__(self, evaluation: Evaluation, methods: Mapping[str, Mapping[str, Builder]]) -> None:
        """Add a figure per pipeline."""
        indices = evaluation.judged[: evaluation.run.config.evaluate.images_shown]
        image, figures = evaluation.images(indices), {}
        for pipeline in evaluation.pipelines:
            targets = evaluation.classes(pipeline)[: len(indices), 0]
            maps, cut = {}, {}
            for name, builder in methods[pipeline.name].items():
                make = partial(_explained, builder, pipeline.classifier, image, targets)
                found = evaluation.kept(*self.place, pipeline.name, name, make=make)["maps"]
                large = normalize_map(upsample(found, pipeline.grid.image_size))
                maps[name], cut[name] = large.numpy(), foreground(large).numpy()
            titles = [evaluation.class_names[target] for target in targets.tolist()]
            figures[f"{self.name}-{pipeline.name}", pipeline.name] = overlays(
                evaluation.pictures(indices), maps, cut, titles
            )
        text = "Maps of the predicted class, named above, and what lies above Otsu's threshold of each."
        evaluation.report.add(self.titled("Maps as segmentations"), text, figures=figures)


def _explained(builder: Builder, classifier: nn.Module, image: Tensor, targets: Tensor) -> dict[str, Tensor]:
    return {"maps": builder(classifier).attribute(image, targets)}
