"""Explanations by different surrogates of one classifier, and correlations between measures of surrogates."""

from itertools import combinations

import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import columns_of, with_intervals
from fastshap_lab.metrics import MapAgreement
from fastshap_lab.metrics.correlation import spearman
from fastshap_lab.report import relations, subset_maps

_MIN_SURROGATES = 3  # smallest number with a rank correlation other than 1 and -1


class Surrogates(Section):
    """Explanations of one classifier by several surrogates, and correlations between measures over all surrogates."""

    kind = "surrogates"
    tables = ("surrogate_similarity",)

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add a section about explanations and one about correlations, if there are enough surrogates."""
        _explanations(evaluation)
        _relations(evaluation)


def _explanations(evaluation: Evaluation) -> None:
    of_classifier: dict[str, list[Pipeline]] = {}
    for pipeline in evaluation.explained:
        of_classifier.setdefault(pipeline.runs["classifier"].fingerprint, []).append(pipeline)
    rows, figures = [], {}
    for pipelines in of_classifier.values():
        if len(pipelines) == 1:
            continue
        original, indices = pipelines[0].classifier_name, evaluation.evaluated
        figures[f"surrogates-{original}", f"{original} by its surrogates"] = _figure(evaluation, pipelines)
        maps = {pipeline.name: [_maps(evaluation, pipeline, evaluation.settings.images)] for pipeline in pipelines}
        for first, second in combinations(maps, 2):
            alike = columns_of(MapAgreement(), MapAgreement.columns, *maps[first], *maps[second])
            means = with_intervals(alike, evaluation.settings.bootstrap)
            rows.append({"pipelines": f"{first} and {second}", "images": len(indices)} | means)
    if not rows:
        return
    evaluation.report.add(
        "Explanations by different surrogates",
        f"The maps are of the target, which is the same in every row: {evaluation.data.task.target_in_words}. Under "
        f"each map are the target and the {evaluation.data.task.answer} of the surrogate whose game the map explains; "
        "over the image is its label.\n\n"
        "The table shows the similarity of two pipelines' maps over players: means over images, with 95 % bootstrap "
        "intervals over images. Maps on a finer grid are summed to the players of the coarser one.",
        {("surrogate_similarity", "Similarity of explanations of the same predictions"): pd.DataFrame(rows)},
        figures,
    )


def _maps(evaluation: Evaluation, pipeline: Pipeline, number: int) -> Tensor:
    """Return maps (number, rows, columns) of the targets of the first test images of the evaluation's order."""
    classes = pipeline.foremost[evaluation.order].unsqueeze(1)
    return evaluation.explainer_maps(pipeline, evaluation.order, number, classes)[:, 0]


def _figure(evaluation: Evaluation, pipelines: list[Pipeline]) -> Figure:
    number = evaluation.settings.images_shown
    indices = evaluation.order[:number]
    targets, maps, captions = pipelines[0].foremost[indices], {}, {}
    for pipeline in pipelines:
        maps[pipeline.name] = _maps(evaluation, pipeline, number).numpy()
        answers = pipeline.task.predict(pipeline.game("logits").grand(evaluation.images(indices)).cpu())
        captions[pipeline.name] = pipeline.in_words(targets, answers, evaluation.class_names)
    return subset_maps(evaluation.pictures(indices), maps, captions, evaluation.labels_of(indices))


def _relations(evaluation: Evaluation) -> None:
    pipelines = evaluation.distinct("surrogate")  # pipelines may differ in their explainers only
    if len(pipelines) < _MIN_SURROGATES:
        return
    task = evaluation.data.task
    named = {f"masked {task.title(task.imitation)}": f"test/masked_{task.imitation}"}
    named |= {task.title(name): f"test/{name}" for name in reversed(task.measure_names)}
    measures = pd.DataFrame(
        [{name: pipeline.runs["surrogate"].measures()[key] for name, key in named.items()} for pipeline in pipelines],
        index=[pipeline.name for pipeline in pipelines],
    )
    values = {name: torch.tensor(measures[name].to_numpy()).view(1, -1, 1) for name in measures}
    ranks = ", ".join(
        f"{first} and {second} {spearman(values[first], values[second]).item():.2f}"
        for first, second in combinations(values, 2)
    )
    imitation, *others = measures
    evaluation.report.add(
        "Correlations between measures of surrogates",
        "Is a surrogate that is near its classifier on masked images good on whole images, too? The "
        f"{task.title(task.imitation, long=True)} from the classifier is over coalitions of uniformly drawn size, of "
        f"each surrogate's own players; {' and '.join(others)} are measured against the labels of whole images. Points "
        "of the same colour have the same classifier.\n\n"
        f"The rank correlations over {len(pipelines)} surrogates are: {ranks}.",
        figures={
            ("surrogates", "Surrogates"): relations(
                measures, imitation, others, [one.classifier_name for one in pipelines]
            ),
        },
    )
