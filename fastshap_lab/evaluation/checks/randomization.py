"""Change of explanations when weights of the network are randomized."""

import copy
from collections.abc import Mapping
from functools import partial
from itertools import accumulate
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from fastshap_lab.attribution.base import hooked
from fastshap_lab.components import Count
from fastshap_lab.evaluation.evaluation import Evaluation
from fastshap_lab.evaluation.methods import AppliedMethod
from fastshap_lab.evaluation.pipeline import Pipeline
from fastshap_lab.evaluation.section import Section
from fastshap_lab.evaluation.statistics import with_intervals
from fastshap_lab.metrics import Similarity
from fastshap_lab.models import Classifier
from fastshap_lab.progress import track
from fastshap_lab.report import method_curves
from fastshap_lab.seeding import derive_seed

_MIN_STEPS, _MAX_STEPS = 8, 12  # number of steps, if the network has as many layers

Mode = Literal["cascading", "independent"]


class Randomization(Section):
    """Similarity of maps before and after the weights of layers are randomized, from the output to the input.

    The explained class stays the one that the trained network predicts. Random weights depend on layer and seed only.

    Reference: Adebayo et al., Sanity checks for saliency maps, NeurIPS 2018, arXiv:1810.03292, section 3.

    Args:
        mode: ``cascading`` adds a layer to the randomized ones in each step, ``independent`` randomizes one at a time.
        seeds: Number of random networks in each step, whose similarities are averaged.
        images: Number of evaluated images, the first ones.
    """

    kind = "randomization"
    uncounted = ("images",)

    def __init__(self, mode: Mode = "cascading", seeds: Count = 2, images: Count = 16) -> None:
        self.mode, self.seeds, self.images = mode, seeds, images

    def __call__(self, evaluation: Evaluation, name: str) -> None:
        """Add tables and figures of the similarity by method and step."""
        resamples, place = evaluation.settings.bootstrap, f"{name}-{self.mode}"
        rows, tables, figures = [], {}, {}
        for pipeline in evaluation.pipelines:
            steps = layers(pipeline.classifier, evaluation.images(evaluation.evaluated[:1]))
            curves: dict[str, dict[str, np.ndarray]] = {column: {} for column in Similarity.columns}
            key = evaluation.result_key(pipeline, slice(self.images))
            found = {name: one for name, one in evaluation.methods(pipeline).items() if one.rebuildable}
            for method, applied in track(found.items(), f"{self.mode} randomization of {pipeline.name}"):
                make = partial(self._similarity, evaluation, pipeline, applied, list(steps.values()))
                found = self.stored(evaluation, key | {"method": applied.key}, make)
                similarity = found["similarity"].nanmean(dim=1)  # (steps, B, columns)
                final = similarity[-1] if self.mode == "cascading" else similarity[1:].nanmean(dim=0)
                row: dict[str, str | float] = {"model": pipeline.name, "method": method}
                columns = dict(zip(Similarity.columns, final.unbind(dim=1), strict=True))
                rows.append(row | with_intervals(columns, resamples))
                for column, values in zip(Similarity.columns, similarity.unbind(dim=2), strict=True):
                    curves[column][method] = values.nanmean(dim=1).numpy()
            panels = {
                column.replace("_", ", "): pd.DataFrame(lines, index=["none", *steps])
                for column, lines in curves.items()
            }
            drawn = "layers drawn, up to" if self.mode == "cascading" else "layer drawn"
            by_step = panels["spearman"].T.rename_axis("method")
            tables[f"{place}-{pipeline.name}", f"{pipeline.name}: Spearman correlation by step"] = by_step
            figures[f"{place}-{pipeline.name}", pipeline.name] = method_curves(
                panels, drawn, baseline=evaluation.baseline
            )
        last = {"cascading": "once all layers are drawn", "independent": "with one layer drawn, mean over layers"}
        evaluation.report.add(
            self.titled(f"Randomization, {self.mode}", name),
            f"Maps of the target on {min(self.images, len(evaluation.evaluated))} images are compared with those of "
            f"the trained network, and similarities are averaged over {self.seeds} random networks: Spearman "
            "correlation of signed and of absolute values, and SSIM, at the maps' own resolution. If the similarity "
            "stays high, a map shows the image rather than what the network has learned; Random, which does not use "
            "the network, stays at 1. Layers and their running statistics are initialized again; parameters without an "
            "initialization (tokens, position embeddings) are drawn from a normal distribution with their own mean and "
            "standard deviation. Intervals are 95 % bootstrap intervals over images.",
            {(place, f"Similarity {last[self.mode]}"): pd.DataFrame(rows)} | tables,
            figures,
        )

    def _similarity(
        self, evaluation: Evaluation, pipeline: Pipeline, applied: AppliedMethod, steps: list[list[str]]
    ) -> dict[str, Tensor]:
        """Return the similarity (1 + steps, seeds, B, columns): of the original maps to themselves, then by step."""
        image, target = (
            evaluation.images(evaluation.evaluated[: self.images]),
            evaluation.classes(pipeline)[: self.images, 0],
        )
        drawn = list(accumulate(steps)) if self.mode == "cascading" else steps
        original = evaluation.target_maps(pipeline, applied, slice(self.images))

        def similarity(names: list[str], seed: int) -> Tensor:
            metric = Similarity()
            metric.update(original, applied.on(redrawn(pipeline.classifier, names, seed)).attribute(image, target))
            return torch.stack(list(metric.per_image().values()), dim=1)

        itself = Similarity()
        itself.update(original, original)
        found = [torch.stack(list(itself.per_image().values()), dim=1).expand(self.seeds, -1, -1)]
        found += [torch.stack([similarity(names, seed) for seed in range(self.seeds)]) for names in drawn]
        return {"similarity": torch.stack(found)}


def layers(classifier: Classifier, image: Tensor) -> dict[str, list[str]]:
    """Return the steps of a randomization, from the output to the input: names of the network's modules, by a label.

    The steps contain all modules that have parameters or running statistics of their own, ordered by when a pass enters
    them. A step is a branch of the module tree at the coarsest level with at least 8 branches. If there are more than
    12, neighbours are joined, except with the last one.

    Args:
        classifier: Classifier whose network is randomized.
        image: Images (B, C, H, W) for the pass that finds the order of the modules.
    """
    network, entered = classifier.network, dict[str, int]()
    hooks = [
        partial(module.register_forward_pre_hook, partial(_enter, entered, name))
        for name, module in network.named_modules()
    ]
    with hooked(hooks), torch.no_grad():
        classifier(image)
    owners = [name for name, module in network.named_modules() if _has_state(module)]
    owners.sort(key=lambda name: _place(entered, name))
    for depth in range(1, 2 + max(name.count(".") for name in owners)):
        branches: dict[str, list[str]] = {}
        for name in owners:
            branches.setdefault(".".join(name.split(".")[:depth]), []).append(name)
        if len(branches) >= _MIN_STEPS:
            break
    tokens = ", ".join(name for name, _ in network.named_parameters(recurse=False))  # the network's own
    *before, last = branches
    runs = [
        run.tolist() for run in np.array_split(np.array(before, dtype=object), min(len(before), _MAX_STEPS - 1) or 1)
    ]
    steps = {}
    for run in [[last], *reversed([run for run in runs if run])]:
        ends = [tokens if end == "" else end for end in dict.fromkeys((run[0], run[-1]))]
        steps[" … ".join(ends)] = [name for branch in run for name in branches[branch]]
    return steps


def redrawn(classifier: Classifier, names: list[str], seed: int) -> Classifier:
    """Return a copy of a classifier in which some modules have random weights.

    The weights of a module depend on the seed and the module's name alone.

    Args:
        classifier: Classifier to copy.
        names: Names of the modules whose weights are drawn.
        seed: Seed for drawing weights.
    """
    device = classifier.mean.device
    clone = copy.deepcopy(classifier).cpu()  # random numbers on a CPU are the same on every machine
    for name in names:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.default_generator.manual_seed(derive_seed("randomization", seed, name))
            _redraw(clone.network.get_submodule(name))
    return clone.to(device)


def _redraw(module: nn.Module) -> None:
    before = {name: parameter.clone() for name, parameter in module.named_parameters(recurse=False)}
    if hasattr(module, "reset_parameters"):
        module.reset_parameters()
    for name, parameter in module.named_parameters(recurse=False):
        was = before[name]
        if torch.equal(parameter, was):  # reset_parameters is missing, or leaves this parameter alone
            parameter.normal_(was.mean().item(), was.std(correction=0).item())


def _has_state(module: nn.Module) -> bool:
    """Return whether a module has parameters of its own, or running statistics."""
    return any(True for _ in module.parameters(recurse=False)) or getattr(module, "running_mean", None) is not None


def _enter(entered: dict[str, int], name: str, *_: object) -> None:
    entered.setdefault(name, len(entered))


def _place(entered: Mapping[str, int], name: str) -> int:
    """Return the position of a module in a pass or, if it is never called itself, that of its nearest called parent."""
    while name not in entered:
        name = name.rpartition(".")[0]
    return entered[name]
