"""Methods of attribution side by side: maps of the same images, judged by the same metrics."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS, AttributionMethod
from fastshap_lab.components import arguments, build, in_words
from fastshap_lab.config import ComponentConfig, EvaluateConfig
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.base import EXPLAINER, RANDOM, Evaluation, Pipeline
from fastshap_lab.evaluation.checks import CHECKS, Builder
from fastshap_lab.evaluation.cost import metered
from fastshap_lab.evaluation.measures import MEASURES, Measure, Scene
from fastshap_lab.metrics import Deletion, Insertion, PerImage
from fastshap_lab.progress import track
from fastshap_lab.report import gallery, removal_curves

_CHUNK = 16  # images whose maps, and whose measures, are kept together
_COLUMNS = 9  # methods in a figure of the gallery

Explain = Callable[[Tensor, Tensor], Tensor]
"""Takes images (B, 3, H, W) and classes (B, E) to maps (B, E, rows, columns)."""


@dataclass
class Method:
    """A method on a pipeline's classifier.

    Attributes:
        name: What it is called in tables and figures.
        kind: ``attribution``, ``score`` or ``saliency``.
        unit: As ``AttributionMethod.unit``.
        explain: Gives its maps.
        modules: Whose passes count.
    """

    name: str
    kind: str
    unit: str | None
    explain: Explain
    modules: list[nn.Module]


def check(config: EvaluateConfig) -> None:
    """Raise a ``UserError`` where a method, metric or check is unknown, or has wrong arguments."""
    for name, chosen in config.methods.items():
        if name in (EXPLAINER, RANDOM) and chosen.name != name:
            raise UserError(f"evaluate.methods.{name}.name={chosen.name}: this name means {name}; give it another")
        if chosen.name != EXPLAINER:
            table = METHODS | {EXPLAINER: AttributionMethod}
            arguments(table, f"evaluate.methods.{name}", chosen.name, chosen.params, "model")
        elif chosen.params:
            raise UserError(f"evaluate.methods.{name}.params: {EXPLAINER} takes none")
    _built(MEASURES, "metrics", config.metrics)
    _built(CHECKS, "checks", config.checks)


def comparison(evaluation: Evaluation) -> None:
    """Add the comparison of methods, and the checks."""
    config = evaluation.run.config.evaluate
    if not (config.methods or config.checks):
        return
    builders = {RANDOM: partial(METHODS[RANDOM])} | {
        name: partial(build, METHODS, f"evaluate.methods.{name}", chosen.name, chosen.params)
        for name, chosen in config.methods.items()
        if chosen.name != EXPLAINER
    }
    applicable: dict[str, dict[str, Method]] = {}
    refused: list[dict[str, str]] = []
    for pipeline in evaluation.pipelines:
        found = applicable[pipeline.name] = {}
        for name, chosen in config.methods.items():
            if chosen.name == EXPLAINER and pipeline.explainer is not None:
                modules = [pipeline.explainer.network, pipeline.explainer.surrogate.masking]
                found[name] = Method(name, "attribution", pipeline.explainer.link, pipeline.amortized, modules)
            elif chosen.name == EXPLAINER:
                refused.append({"model": pipeline.name, "method": name, "not applicable": "no explainer was trained"})
        for name, builder in builders.items():
            try:
                method = builder(model=pipeline.classifier)
                modules = [pipeline.classifier]
                found[name] = Method(name, method.kind, method.unit, method.attribute_classes, modules)
            except UserError as error:
                refused.append({"model": pipeline.name, "method": name, "not applicable": str(error)})
    if config.methods:
        costs = [
            row
            for pipeline in evaluation.pipelines
            for row in _explained(evaluation, pipeline, applicable[pipeline.name], refused)
        ]
        _add_costs(evaluation, costs, refused)
        _add_gallery(evaluation, applicable)
        for name, measure in _built(MEASURES, "metrics", config.metrics).items():
            _add_metric(evaluation, name, measure, applicable)
    kept = {
        name: {one: _keyword(builders[one]) for one in found if one in builders} for name, found in applicable.items()
    }
    for name, one in _built(CHECKS, "checks", config.checks).items():
        one.name = name
        one(evaluation, kept)


def _built(
    table: Mapping[str, Callable[..., Any]], group: str, chosen: Mapping[str, ComponentConfig]
) -> dict[str, Any]:
    return {
        name: build(table, f"evaluate.{group}.{name}", component.name, component.params)
        for name, component in chosen.items()
    }


def _keyword(builder: Callable[..., AttributionMethod]) -> Builder:
    return lambda model: builder(model=model)


def _chunks(evaluation: Evaluation) -> Iterator[tuple[str, slice]]:
    """Yield names and places of the parts in which judged images are dealt with."""
    for start in range(0, len(evaluation.judged), _CHUNK):
        yield f"{start:05d}", slice(start, start + _CHUNK)


def _scene(evaluation: Evaluation, pipeline: Pipeline, place: slice) -> Scene:
    image = evaluation.images(evaluation.judged[place])
    return Scene(evaluation, pipeline, place, image, evaluation.classes(pipeline)[place].to(image.device))


def _maps(evaluation: Evaluation, pipeline: Pipeline, method: Method, chunk: str, place: slice) -> dict[str, Tensor]:
    """Return a method's maps of a part of the images, and what they cost; kept."""

    def make() -> dict[str, Tensor]:
        scene = _scene(evaluation, pipeline, place)
        with metered(*method.modules) as cost:
            maps = method.explain(scene.image, scene.classes)
        spent = torch.tensor([cost.seconds, cost.forward, cost.backward, cost.mebibytes], dtype=torch.float64)
        return {"maps": maps.float(), "cost": spent}

    return evaluation.kept("methods", pipeline.name, method.name, chunk, make=make)


def _explained(
    evaluation: Evaluation, pipeline: Pipeline, found: dict[str, Method], refused: list[dict[str, str]]
) -> Iterator[dict[str, str | float]]:
    """Explain all judged images by all methods; yield what each costs, and put aside those that find out late."""
    chunks, title = list(_chunks(evaluation)), f"methods on {pipeline.name}"
    for name, method in track(list(found.items()), title):
        try:
            costs = torch.stack([_maps(evaluation, pipeline, method, *one)["cost"] for one in chunks])
        except UserError as error:
            refused.append({"model": pipeline.name, "method": name, "not applicable": str(error)})
            del found[name]
            continue
        seconds, forward, backward = (costs[:, :3].sum(dim=0) / len(evaluation.judged)).tolist()
        row: dict[str, str | float] = {"model": pipeline.name, "method": name, "kind": method.kind}
        chosen = evaluation.run.config.evaluate.methods.get(name)  # Random comes uncalled, too
        row |= {"unit": method.unit or "", "settings": _words(chosen.params) if chosen else ""}
        yield row | {
            "seconds": seconds,
            "forward passes": forward,
            "backward passes": backward,
            "MiB": costs[:, 3].amax().item(),
        }


def _add_costs(evaluation: Evaluation, costs: list[dict[str, Any]], refused: list[dict[str, str]]) -> None:
    classes = min(evaluation.run.config.evaluate.classes, len(evaluation.class_names))
    tables = {("methods", "What an image's explanation costs"): pd.DataFrame(costs)}
    if refused:
        tables["methods-refused", "Not applicable"] = pd.DataFrame(refused)
    evaluation.report.add(
        "Methods",
        f"Each explains {classes} classes of {len(evaluation.judged)} test images, the most probable ones; the "
        f"first is the target. Per image: seconds, passes through the classifier, copies of the image counted each "
        "(the trained explainer: through itself and the surrogate), and the most memory that explaining "
        f"{min(_CHUNK, len(evaluation.judged))} images took at once. Attributions are signed; scores are "
        "answers, which have a constant part; saliencies are not negative. Unit: the space of which a map's values are "
        "differences that add up, if they are. Settings: those that are not the method's defaults.",
        tables,
    )


def _add_gallery(evaluation: Evaluation, applicable: Mapping[str, Mapping[str, Method]]) -> None:
    shown = evaluation.judged[: min(evaluation.run.config.evaluate.images_shown, _CHUNK)]
    chunk, place = next(_chunks(evaluation))
    figures = {}
    for pipeline in evaluation.pipelines:
        found = list(applicable[pipeline.name].values())
        texts = [evaluation.caption(index, int(pipeline.predictions[index])) for index in shown.tolist()]
        for start in range(0, len(found), _COLUMNS):
            columns = {
                method.name: (_maps(evaluation, pipeline, method, chunk, place)["maps"][: len(shown), 0], method.kind)
                for method in found[start : start + _COLUMNS]
            }
            number = f"-{start // _COLUMNS + 1}" if len(found) > _COLUMNS else ""
            figures[f"gallery-{pipeline.name}{number}", f"{pipeline.name}: maps of the target"] = gallery(
                evaluation.pictures(shown),
                {name: (maps.numpy(), kind) for name, (maps, kind) in columns.items()},
                texts,
            )
    evaluation.report.add("Gallery", "", figures=figures)


def _add_metric(
    evaluation: Evaluation, name: str, measure: Measure, applicable: Mapping[str, Mapping[str, Method]]
) -> None:
    """Add a metric's table, tests between methods, and curves if it has any."""
    resamples = evaluation.run.config.evaluate.bootstrap
    rows, tests, refused, figures = [], [], [], {}
    for pipeline in evaluation.pipelines:
        reason = measure.refusal(evaluation, pipeline)
        if reason is not None:
            refused.append(f"{pipeline.name}: not applicable: {reason}.")
            continue
        measured = _measured(evaluation, pipeline, name, measure, applicable[pipeline.name].values())
        main = measure.column or next(iter(measured.values())).columns[0]
        sign = -1 if next(iter(measured.values())).higher_is_better is False else 1
        means = {one: metric.compute() for one, metric in measured.items()}
        # Best first; undefined ones last.
        order = sorted(measured, key=lambda one: (means[one][main] != means[one][main], -sign * means[one][main]))
        for one in order:
            row: dict[str, str | float] = {"model": pipeline.name, "method": one}
            intervals = measured[one].intervals(resamples)
            for column, value in means[one].items():
                row |= {column: value, f"{column}_low": intervals[column][0], f"{column}_high": intervals[column][1]}
            rows.append(row | {"images": measured[one].num_images - measured[one].nan_count()[main]})
        tests += _tests(pipeline.name, main, {one: measured[one] for one in order}, resamples)
        if isinstance(measured[order[0]], Deletion):
            curves = {one: measured[one].curves()[main].numpy() for one in order}
            share = "inserted" if isinstance(measured[order[0]], Insertion) else "deleted"
            figures[f"methods-{name}-{pipeline.name}", pipeline.name] = removal_curves(curves, share, main)
    tables = {}
    if rows:
        tables[f"methods-{name}", name.replace("_", " ").capitalize()] = pd.DataFrame(rows)
        tables[f"methods-{name}-tests", f"Paired tests on {main}"] = pd.DataFrame(tests)
    tested = (
        "Intervals: 95 %, from resampling images. Tests: sign flips of the differences on the same images, two-sided, "
        "not corrected for their number."
    )
    described = f"{_summary(measure)} {measure.note}".strip()
    text = "\n\n".join([described, f"With {_arguments(evaluation, name, measure)}.", tested, *refused])
    evaluation.report.add(f"Methods by {name.replace('_', ' ')}", text, tables, figures)


def _summary(measure: Measure) -> str:
    metric = type(measure.metric())
    return " ".join((metric.__doc__ or "").split("\n\n")[0].split())


def _arguments(evaluation: Evaluation, name: str, measure: Measure) -> str:
    """Return all arguments of a metric, given or by default; of the link what it comes to."""
    chosen = evaluation.run.config.evaluate.metrics[name]
    parameters = inspect.signature(MEASURES[chosen.name]).parameters.values()
    found = {each.name: chosen.params.get(each.name, each.default) for each in parameters}
    if "removal" in found:
        found["removal"] = in_words(found["removal"])
    if "link" in found:
        spaces = {pipeline.name: measure.space(pipeline) for pipeline in evaluation.pipelines}
        alike = len(set(spaces.values())) == 1
        found["link"] = (
            next(iter(spaces.values()))
            if alike
            else " or ".join(f"{space} ({pipeline})" for pipeline, space in spaces.items())
        )
    return _words(found) or "no settings"


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items())


def _measured(
    evaluation: Evaluation, pipeline: Pipeline, name: str, measure: Measure, found: Any
) -> dict[str, PerImage]:
    """Return each method's metric over all judged images, in parts that are kept."""
    measured = {method.name: measure.metric() for method in found}
    chunks = list(_chunks(evaluation))
    for chunk, place in track(chunks, f"{name} on {pipeline.name}"):
        scene = cache(partial(_scene, evaluation, pipeline, place))  # not made where everything is kept already
        for method in found:
            make = partial(_rows, measure, method, partial(_maps, evaluation, pipeline, method, chunk, place), scene)
            parts = evaluation.kept("measures", pipeline.name, name, method.name, chunk, make=make)
            measured[method.name].extend([parts[key] for key in sorted(parts)])
    return measured


def _rows(
    measure: Measure, method: Method, maps: Callable[[], dict[str, Tensor]], scene: Callable[[], Scene]
) -> dict[str, Tensor]:
    """Return what a metric keeps of a method's maps of a part of the images."""
    metric = measure.metric()
    measure.update(metric, scene(), maps()["maps"].to(scene().image.device), method.unit)
    return {f"{number:03d}": part for number, part in enumerate(metric.kept)}


def _tests(model: str, column: str, measured: Mapping[str, PerImage], resamples: int) -> list[dict[str, Any]]:
    """Return how each method differs from the best one, which comes first, and from Random, on the same images."""
    best = next(iter(measured))
    rows = []
    for name, metric in measured.items():
        row: dict[str, Any] = {"model": model, "method": name}
        for title, other in (("less the best", best), ("less random", RANDOM)):
            test = metric.compare(measured[other], resamples)[column]
            row |= {title: test.difference, f"{title}_low": test.low, f"{title}_high": test.high}
            row[f"p ({title})"] = test.p_value if name != other else float("nan")
        rows.append(row)
    return rows
