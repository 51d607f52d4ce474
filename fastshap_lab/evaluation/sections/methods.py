"""The comparison of attribution methods: maps of the same images, their cost, and metrics."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch

from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import CHUNK, AppliedMethod
from fastshap_lab.evaluation.metrics import ChosenMetric, choose_metrics
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.metrics import Deletion, PerImage
from fastshap_lab.report import Table, gallery, removal_curves

_COLUMNS = 9  # largest number of methods in a figure of the gallery
_NOTICED = 0.05  # largest p-value at which a method counts as different from the best one


class Methods(Section):
    """The comparison of attribution methods: cost, maps, and a table for each metric."""

    kind = "methods"
    tables = ("methods", "methods-*")

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add the comparison if methods are configured."""
        if not evaluation.settings.methods:
            return
        methods = {pipeline.name: evaluation.methods(pipeline) for pipeline in evaluation.pipelines}
        _add_costs(evaluation, methods)
        _add_gallery(evaluation, methods)
        for metric in choose_metrics(evaluation.settings.metrics, evaluation.data.task).values():
            _add_metric(evaluation, metric, methods)


def _add_costs(evaluation: Evaluation, methods: Mapping[str, Mapping[str, AppliedMethod]]) -> None:
    rows = [
        _cost(evaluation, pipeline, method)
        for pipeline in evaluation.pipelines
        for method in methods[pipeline.name].values()
    ]
    tables = {("methods", "Cost of an image's explanation"): pd.DataFrame(rows)}
    if evaluation.refused:
        tables["methods-refused", "Not applicable"] = pd.DataFrame(evaluation.refused)
    classes, task = min(evaluation.settings.classes, len(evaluation.class_names)), evaluation.data.task
    number = len(evaluation.evaluated)
    evaluation.report.add(
        "Methods",
        f"Each method explains {classes} {task.nouns[classes > 1]} of {number} test images, {task.first} first, which "
        "is the target. The table shows seconds for an image, passes through the classifier for an image (each masked "
        "copy counts; of the trained explainer, passes through itself and the surrogate), and the peak of the memory "
        f"while {min(CHUNK, number)} images were explained together. An attribution is signed, and zero means no "
        "influence; a score is a model output with an arbitrary offset; a saliency is a non-negative magnitude. The "
        "unit is the space in which a map's values are differences that add up, if they do. Settings are those that "
        "differ from the method's defaults. Costs were measured when the maps were computed, perhaps in an earlier "
        "evaluation on other hardware.",
        tables,
    )


def _cost(evaluation: Evaluation, pipeline: Pipeline, method: AppliedMethod) -> dict[str, Any]:
    """Return a method's row of the table of costs."""
    chunks = evaluation.evaluated_chunks(pipeline)
    costs = torch.stack([method.explain(chunk, classes)["cost"] for _, chunk, classes in chunks])
    seconds, forward, backward = (costs[:, :3].sum(dim=0) / len(evaluation.evaluated)).tolist()
    return {
        "model": pipeline.name,
        "method": method.name,
        "kind": method.method.kind,
        "unit": method.method.unit or "",
        "settings": ", ".join(f"{name}={value}" for name, value in method.component.params.items()),
        "seconds": seconds,
        "forward passes": forward,
        "backward passes": backward,
        "MiB": costs[:, 3].amax().item(),
    }


def _add_gallery(evaluation: Evaluation, methods: Mapping[str, Mapping[str, AppliedMethod]]) -> None:
    shown = evaluation.evaluated[: min(evaluation.settings.images_shown, CHUNK)]
    figures = {}
    for pipeline in evaluation.pipelines:
        found, (_, chunk, classes) = list(methods[pipeline.name].values()), next(evaluation.evaluated_chunks(pipeline))
        targets = pipeline.foremost[shown].tolist()
        texts = [evaluation.caption(*pair) for pair in zip(shown.tolist(), targets, strict=True)]
        for start in range(0, len(found), _COLUMNS):
            columns = {
                method.name: (method.explain(chunk, classes)["maps"][: len(shown), 0].numpy(), method.method.kind)
                for method in found[start : start + _COLUMNS]
            }
            number = f"-{start // _COLUMNS + 1}" if len(found) > _COLUMNS else ""
            figures[f"gallery-{pipeline.name}{number}", f"{pipeline.name}: maps of the target"] = gallery(
                evaluation.pictures(shown), columns, texts
            )
    evaluation.report.add("Gallery", "", figures=figures)


def _add_metric(
    evaluation: Evaluation, chosen: ChosenMetric, methods: Mapping[str, Mapping[str, AppliedMethod]]
) -> None:
    """Add a metric's table, tests between methods and, if the metric has curves, a figure of them."""
    resamples, kind = evaluation.settings.bootstrap, chosen.kind
    main = kind.main_column or chosen.empty(evaluation.pipelines[0]).columns[0]
    sign = -1 if kind.higher_is_better is False else 1
    rows, tests, refused, figures = [], [], [], {}
    for pipeline in evaluation.pipelines:
        reason = chosen.feeder.refusal(evaluation, pipeline)
        if reason is not None:
            refused.append(f"Not applicable to {pipeline.name}: {reason}.")
            continue
        by_method = chosen.evaluate(evaluation, pipeline, methods[pipeline.name])
        means = {one: metric.compute() for one, metric in by_method.items()}
        # The best method comes first; methods whose mean is undefined come last.
        order = sorted(by_method, key=lambda one: (means[one][main] != means[one][main], -sign * means[one][main]))
        for one in order:
            row: dict[str, str | float] = {"model": pipeline.name, "method": one}
            intervals = by_method[one].intervals(resamples)
            for column, value in means[one].items():
                row |= {column: value, f"{column}_low": intervals[column][0], f"{column}_high": intervals[column][1]}
            rows.append(row | {"images": by_method[one].num_images - by_method[one].nan_count()[main]})
        in_order = {one: by_method[one] for one in order}
        tests += _tests(pipeline.name, main, in_order, evaluation.baseline, resamples)
        curves = {
            one: metric.curves()[main].numpy() for one, metric in in_order.items() if isinstance(metric, Deletion)
        }
        if curves:
            figures[f"methods-{chosen.name}-{pipeline.name}", pipeline.name] = removal_curves(
                curves, "inserted" if kind.insert else "deleted", main, evaluation.baseline
            )
    title = chosen.name.replace("_", " ")
    tables: dict[tuple[str, str], Table | pd.DataFrame] = {}
    if rows:
        frame, tested_frame = pd.DataFrame(rows), pd.DataFrame(tests)
        better = dict.fromkeys(frame, kind.higher_is_better) | {"images": None}
        as_good = (tested_frame["p (minus the best)"] > _NOTICED).tolist()
        tables[f"methods-{chosen.name}", title.capitalize()] = Table(frame, better, ("model",), {main: as_good})
        tables[f"methods-{chosen.name}-tests", f"Paired tests on {main}"] = tested_frame
    tested = (
        "Intervals are 95 % bootstrap intervals over images. Tests are two-sided sign-flip tests of the differences on "
        "the same images; their p-values are not corrected for the number of tests."
    )
    summary = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
    text = [f"{summary} {kind.note}".strip(), f"Settings: {chosen.words(evaluation.pipelines)}.", tested, *refused]
    evaluation.report.add(f"Methods by {title}", "\n\n".join(text), tables, figures)


def _tests(
    model: str, column: str, by_method: Mapping[str, PerImage], baseline: str, resamples: int
) -> list[dict[str, Any]]:
    """Return rows with the difference of each method from the best one, which comes first, and from Random."""
    best = next(iter(by_method))
    rows = []
    for name, metric in by_method.items():
        row: dict[str, Any] = {"model": model, "method": name}
        for title, other in (("minus the best", best), ("minus random", baseline)):
            test = metric.compare(by_method[other], resamples)[column]
            row |= {title: test.difference, f"{title}_low": test.low, f"{title}_high": test.high}
            row[f"p ({title})"] = test.p_value if name != other else float("nan")
        rows.append(row)
    return rows
