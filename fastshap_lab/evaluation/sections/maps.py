"""Maps of the same images for all classes."""

from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.section import Section
from fastshap_lab.report import class_maps


class Maps(Section):
    """Maps of the same test images for all classes, in a figure for each explainer."""

    kind = "maps"

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a figure for each explainer."""
        if not evaluation.explained:
            return
        number = evaluation.settings.images_shown
        indices = evaluation.order[:number]
        labels, labelled, task = None, None, evaluation.data.task
        if evaluation.labelled:
            labels = evaluation.labels_of(indices)
            named = task.label_classes(evaluation.test.labels.cpu()[indices], len(evaluation.class_names))
            labelled = named.numpy()
        figures = {}
        for pipeline in evaluation.explained:
            predictions = pipeline.predictions(indices)
            figures[f"maps-{pipeline.name}", f"{pipeline.name}: images and {task.nouns[1]}"] = class_maps(
                evaluation.pictures(indices),
                evaluation.explainer_maps(pipeline, evaluation.order, number).numpy(),
                predictions.numpy(),
                evaluation.class_names,
                labels,
                labelled,
                value_name=f"Shapley value ({pipeline.link})",
                ranks=pipeline.task.ranks(predictions).numpy(),
                marked=pipeline.task.marked(predictions).numpy(),
                said=[pipeline.task.in_words(one, evaluation.class_names) for one in predictions],
                answer_format=pipeline.task.answer_format,
            )
        text = f"Under each map is the classifier's {task.answer} of the {task.nouns[0]}."
        evaluation.report.add("Maps", text, figures=figures)
