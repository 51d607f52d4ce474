"""Which runs a configuration asks for: chains of the stages that declare themselves, and their ends together."""

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from rich.console import Console

from fastshap_lab.components import lookup
from fastshap_lab.config import Config, PipelineConfig
from fastshap_lab.data import ImageDataModule, build_data
from fastshap_lab.data.relabelled import Relabelled
from fastshap_lab.errors import UserError
from fastshap_lab.models.tasks import described
from fastshap_lab.runs.costs import Cost, in_words, total
from fastshap_lab.runs.run import Run, Stage
from fastshap_lab.shapley import PlayerGrid

Compose = Callable[[dict[str, str], list[str]], Config]


def plan(config: Config, compose: Compose, stages: Sequence[Stage], device: torch.device) -> list[Run]:
    """Return the runs that a configuration asks for, each after those it builds on.

    Whatever can be checked before the first of them starts is checked here.

    Args:
        config: The whole configuration.
        compose: Gives it with other choices and further overrides; for ``evaluate.pipelines``.
        stages: All of them, each after those it builds on.
        device: Of images and models.

    Raises:
        UserError: A setting is wrong, or two of them do not go together.
    """
    lookup(dict.fromkeys([*(stage.name for stage in stages), "all"]), "stage", config.stage)
    runs = runs_of(pipelines_of(config, compose, stages), config, stages)
    for run in runs:
        run.data.device = device  # also where nothing is trained
        with torch.device("meta"):  # neither memory nor time
            run.stage.check(run)
    return runs


def pipelines_of(config: Config, compose: Compose, stages: Sequence[Stage]) -> dict[str, Config]:
    """Return the configuration of each pipeline, by name.

    Args:
        config: The whole configuration.
        compose: Function that composes the configuration with other choices and further overrides.
        stages: All stages, each after those that it builds on.
    """
    groups = _groups(stages)
    if config.evaluate.pipelines:
        return {name: _composed(name, chosen, compose, groups) for name, chosen in config.evaluate.pipelines.items()}
    return {"-".join(getattr(config, group).name for group in groups): config}


def runs_of(pipelines: dict[str, Config], config: Config, stages: Sequence[Stage]) -> list[Run]:
    """Return the runs of pipelines and, where it is asked for, of what joins them; nothing is checked.

    Args:
        pipelines: The configuration of each, by name.
        config: The whole configuration.
        stages: As for ``plan``.
    """
    data = build_data(config.data.name, config.data.params, config.data.task)
    for one in (config, *pipelines.values()):
        one.surrogate.loss = one.surrogate.loss or data.task.surrogate_losses[0]
        one.explainer.link = one.explainer.link or data.task.links[0]
    for one in pipelines.values():
        try:
            PlayerGrid(data.image_size, (one.data.grid[0], one.data.grid[1]))
        except UserError as error:
            raise UserError(f"data.grid: {error}") from None
    data = _with_classes(data, pipelines, stages)
    digest = data.digest()
    chains = {
        name: _chain(one, config.evaluate.pipelines.get(name), data, digest, stages) for name, one in pipelines.items()
    }
    for pipeline, chain in chains.items():
        for run in chain:
            run.pipeline = pipeline
    runs = [run for chain in chains.values() for run in chain]
    for stage in stages:
        if stage.joins and config.stage in ("all", stage.name):
            name = (config.name or config.data.name) + stage.part(config)
            ends = {pipeline: chain[-1] for pipeline, chain in chains.items()}
            runs.append(Run(stage, name, stage.settings(config, digest), ends, config, data, "-".join(chains)))
    return list({run.fingerprint: run for run in runs}.values())


def show(runs: list[Run], console: Console) -> None:
    """Print what making the runs will do, and its cost.

    Args:
        runs: Runs in the order of the plan.
        console: Where lines are printed.
    """
    if notice := runs[0].data.notice():
        console.print(f"{'data':<10}  {notice}", soft_wrap=True, markup=False)
    known: dict[str, Cost | None] = {}
    costs: list[Cost | None] = []
    for run in runs:
        action = run.action
        line = f"{run.stage.name:<10}  {action:<7}  {run.folder}"
        if action != "reuse":
            costs.append(run.cost(known))
            line += f"  {in_words(costs[-1])}"
        console.print(line, soft_wrap=True)
        if run.flaw is not None:
            console.print(f"{run.stage.name:<10}  again:   {run.flaw}", soft_wrap=True)
    if costs:
        console.print(f"in total: {total(costs)}", soft_wrap=True)


def _with_classes(data: ImageDataModule, pipelines: dict[str, Config], stages: Sequence[Stage]) -> ImageDataModule:
    """Return the data under the classes of a model that is taken over as it is, if that has others.

    Raises:
        UserError: Pipelines have several.
    """
    found = {
        name: next((names for stage in stages if (names := stage.classes(one, data)) is not None), None)
        for name, one in pipelines.items()
    }
    first = next(iter(found.values()))
    if other := next((name for name, names in found.items() if names != first), None):
        raise UserError(f"evaluate.pipelines.{other}: its classifier has other classes than {next(iter(found))}'s")
    if first is not None and described(data.task):
        raise UserError(f"data.task={data.task.name}: this classifier is not trained and brings classes of its own")
    return data if first is None else Relabelled(data, first)


def _chain(
    config: Config, chosen: PipelineConfig | None, data: ImageDataModule, digest: str, stages: Sequence[Stage]
) -> list[Run]:
    """Return the runs of a pipeline, its beginning first, up to the stage that is asked for or the last that it has."""
    runs: dict[str, Run] = {}
    name = config.name or config.data.name
    for stage in stages:
        lacking = chosen is not None and stage.group is not None and getattr(chosen, stage.group) is None
        if stage.joins or lacking:
            break
        if stage.wanted(config):
            name += stage.part(config)
            parents = {role: run for role, run in runs.items() if role in stage.parents}
            runs[stage.name] = Run(stage, name, stage.settings(config, digest), parents, config, data)
        if stage.name == config.stage:
            break
    return list(runs.values())


def _composed(name: str, chosen: PipelineConfig, compose: Compose, groups: Sequence[str]) -> Config:
    """Return the configuration of one of ``evaluate.pipelines``."""
    for override in chosen.overrides:
        if not re.match(rf"({'|'.join(groups)})\.|(seed|data\.grid)=", override):
            keys = ", ".join(f"{group}.*" for group in groups)
            raise UserError(
                f"evaluate.pipelines.{name}.overrides: {override}: pipelines differ in {keys}, data.grid and seed "
                "alone; set anything else outside of them"
            )
    choices = {group: choice for group in groups if (choice := getattr(chosen, group)) is not None}
    for before, group in pairwise(groups):
        if group in choices and before not in choices:
            raise UserError(f"evaluate.pipelines.{name}.{group}={choices[group]}: needs a {before}, too")
    return compose(choices, chosen.overrides)


def _groups(stages: Sequence[Stage]) -> list[str]:
    """Return the groups of the configuration that a pipeline is made of, in order."""
    return list(dict.fromkeys(stage.group for stage in stages if stage.group is not None))
