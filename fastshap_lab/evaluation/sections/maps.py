"""Images against all classes."""

from fastshap_lab.evaluation.base import Evaluation
from fastshap_lab.report import class_maps


def maps(evaluation: Evaluation) -> None:
    """Add, for each pipeline, the same test images against all classes."""
    if not evaluation.explained:
        return
    indices = evaluation.order[: evaluation.run.config.evaluate.images_shown]
    labels = evaluation.test.labels[indices].cpu().numpy() if evaluation.labelled else None
    figures = {}
    for pipeline in evaluation.explained:
        assert pipeline.explainer is not None
        figures[f"maps-{pipeline.name}", f"{pipeline.name}: images and classes"] = class_maps(
            evaluation.pictures(indices),
            evaluation.maps(pipeline, indices).numpy(),
            pipeline.probabilities[indices].numpy(),
            evaluation.class_names,
            labels,
            value_name=f"Shapley value ({pipeline.explainer.link})",
        )
    evaluation.report.add("Maps", "Under each map the classifier's probability of the class.", figures=figures)
