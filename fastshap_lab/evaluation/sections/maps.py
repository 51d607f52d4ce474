"""Images against all classes."""

from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.section import Section
from fastshap_lab.report import class_maps


class Maps(Section):
    """The same test images against all classes, a figure for each explainer."""

    kind = "maps"

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add the figures."""
        if not evaluation.explained:
            return
        number = evaluation.settings.images_shown
        indices = evaluation.order[:number]
        labels = evaluation.test.labels[indices].cpu().numpy() if evaluation.labelled else None
        figures = {}
        for pipeline in evaluation.explained:
            figures[f"maps-{pipeline.name}", f"{pipeline.name}: images and classes"] = class_maps(
                evaluation.pictures(indices),
                evaluation.explainer_maps(pipeline, evaluation.order, number).numpy(),
                pipeline.probabilities[indices].numpy(),
                evaluation.class_names,
                labels,
                value_name=f"Shapley value ({pipeline.link})",
            )
        evaluation.report.add("Maps", "Under each map the classifier's probability of the class.", figures=figures)
