"""The metrics that an evaluation compares methods by, with their feeders; results are cached in parts."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from fastshap_lab.components import arguments, build, did_you_mean, in_words, lookup
from fastshap_lab.config import ComponentConfig
from fastshap_lab.errors import UserError
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.feeders import FEEDERS, EvaluationBatch, Feeder
from fastshap_lab.evaluation.methods import CHUNK, AppliedMethod
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.metrics import METRICS, PerImage
from fastshap_lab.models import Task
from fastshap_lab.progress import track
from fastshap_lab.runs.sources import identity

_GIVEN = ("max_batch", "task")  # arguments of metrics that the pipeline determines


def comparable_metrics() -> dict[str, type[PerImage]]:
    """Return the entries of ``METRICS`` that have a feeder, so that attribution methods can be compared by them."""
    return {name: kind for name, kind in METRICS.items() if getattr(kind, "feed", None) is not None}


@dataclass
class ChosenMetric:
    """A metric of ``evaluate.metrics``.

    Attributes:
        name: Key in ``evaluate.metrics``.
        entry: Name in ``METRICS``.
        feeder: Feeder that computes the metric's inputs.
        params: Arguments of the metric, without those of its feeder.
        settings: All arguments, configured ones and defaults, for reports.
    """

    name: str
    entry: str
    feeder: Feeder
    params: dict[str, Any]
    settings: dict[str, Any]

    @property
    def kind(self) -> type[PerImage]:
        """Class of the metric."""
        return comparable_metrics()[self.entry]

    def empty(self, pipeline: Pipeline) -> PerImage:
        """Return a new metric that has seen no image, with the pipeline's task and batch size."""
        known: dict[str, Any] = {"max_batch": pipeline.max_batch, "task": pipeline.task}
        given = {word: known[word] for word in _GIVEN if word in inspect.signature(self.kind).parameters}
        return build(comparable_metrics(), f"evaluate.metrics.{self.name}", self.entry, self.params, **given)

    def words(self, pipelines: Iterable[Pipeline]) -> str:
        """Return all arguments in words, with the space that the link stands for in each of the pipelines."""
        found = dict(self.settings)
        if "removal" in found:
            found["removal"] = in_words(found["removal"])
        if "link" in found:
            spaces = {pipeline.name: self.feeder.space(pipeline) for pipeline in pipelines}
            if len(set(spaces.values())) == 1:
                found["link"] = next(iter(spaces.values()))
            else:
                found["link"] = " or ".join(f"{space} ({pipeline})" for pipeline, space in spaces.items())
        return ", ".join(f"{name}={value}" for name, value in found.items()) or "no settings"

    def evaluate(
        self, evaluation: Evaluation, pipeline: Pipeline, methods: Mapping[str, AppliedMethod]
    ) -> dict[str, PerImage]:
        """Return the metric of each method over all evaluated images, computed in parts that are cached.

        Args:
            evaluation: Evaluation, which has the images.
            pipeline: Pipeline whose models are explained.
            methods: Methods on that pipeline, by name.
        """
        measured = {name: self.empty(pipeline) for name in methods}
        chunks = list(evaluation.evaluated_chunks(pipeline))
        for start, chunk, classes in track(chunks, f"{self.name} on {pipeline.name}"):
            indices = evaluation.evaluated[start : start + CHUNK]
            batch = EvaluationBatch(evaluation, pipeline, start, indices, chunk, classes.to(evaluation.device))
            key = {
                "metric": identity(METRICS, self.entry, self.params),
                "feeder": {"code": identity(FEEDERS, self.kind.feed or "", {}), "inputs": self.feeder.key(batch)},
            }
            for name, method in methods.items():
                make = partial(self._rows, batch, method, classes)
                parts = evaluation.store.get("measures", key | {"maps": method.map_key(chunk, classes)}, make)
                measured[name].extend([parts[part] for part in sorted(parts)])
        return measured

    def _rows(self, batch: EvaluationBatch, method: AppliedMethod, classes: Tensor) -> dict[str, Tensor]:
        """Return the rows of the metric for a method's maps of a batch of images."""
        metric, unit = self.empty(batch.pipeline), method.method.unit
        maps = method.explain(batch.chunk, classes)["maps"].to(batch.image.device)
        inputs = self.feeder.inputs(batch, maps, lambda space: unit is not None and _space(unit) == _space(space))
        if inputs is not None:
            if metric.needs_units and not inputs["in_units"]:
                inputs["phi"] = torch.full_like(inputs["phi"], torch.nan)
            metric.update(**{name: inputs[name] for name in _taken(self.kind)})
        return {f"{number:03d}": part for number, part in enumerate(metric.rows)}


def choose_metrics(chosen: Mapping[str, ComponentConfig], task: Task) -> dict[str, ChosenMetric]:
    """Return the metrics that a configuration names.

    Args:
        chosen: Names in ``METRICS`` and arguments, including those of the feeders, by key in ``evaluate.metrics``.
        task: Task of the data.

    Raises:
        UserError: A metric is unknown, or has wrong arguments.
    """
    found = {name: _choose(name, component) for name, component in chosen.items()}
    for name, metric in found.items():
        metric.feeder.check(task, f"evaluate.metrics.{name}")
    return found


def _choose(name: str, component: ComponentConfig) -> ChosenMetric:
    key, table = f"evaluate.metrics.{name}", comparable_metrics()
    kind = lookup(table, f"{key}.name", component.name)
    feed = lookup(FEEDERS, f"{component.name}.feed", kind.feed or "")
    own = {each.name: each for each in inspect.signature(kind).parameters.values() if each.name not in _GIVEN}
    fed = {each.name: each for each in inspect.signature(feed).parameters.values()}
    for word in component.params:
        if word not in own | fed:
            known = did_you_mean(word, [*own, *fed])
            raise UserError(f"{key}.params.{word}: unknown to {component.name}, {known}")
    given = {**kind.feed_defaults, **component.params}
    params = {word: value for word, value in given.items() if word in own}
    arguments(table, key, component.name, params, *_GIVEN)
    feeder = build({component.name: feed}, key, component.name, {w: v for w, v in given.items() if w in fed})
    settings = {word: given.get(word, each.default) for word, each in (own | fed).items()}
    return ChosenMetric(name, component.name, feeder, params, settings)


def _space(link: str) -> str:
    """Return the name of a link's space; ``identity`` and ``logits`` are the same space."""
    return "logits" if link == "identity" else link


@cache
def _taken(kind: type[PerImage]) -> list[str]:
    """Return the names of the arguments of a metric's ``update``."""
    return [name for name in inspect.signature(kind.update).parameters if name != "self"]
