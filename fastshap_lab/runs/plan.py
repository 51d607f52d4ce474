"""The runs that a configuration asks for: a chain of stages for each pipeline, and a stage that joins the chains."""

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
    """Return the runs that a configuration asks for, each after the runs it builds on.

    Everything that can be checked before the first run starts is checked here.

    Args:
        config: The whole configuration.
        compose: Function that returns the configuration with other choices, by group, and further overrides; it makes
            the configurations of ``evaluate.pipelines``.
        stages: All stages, each after the stages it builds on.
        device: Device of images and models.

    Raises:
        UserError: A setting is wrong, or two settings exclude each other.
    """
    lookup(dict.fromkeys([*(stage.name for stage in stages), "all"]), "stage", config.stage)
    runs = runs_of(pipelines_of(config, compose, stages), config, stages)
    for run in runs:
        run.data.device = device  # also where nothing is trained
        with torch.device("meta"):  # networks on this device take neither memory nor time
            run.stage.check(run)
    return runs


def pipelines_of(config: Config, compose: Compose, stages: Sequence[Stage]) -> dict[str, Config]:
    """Return the configuration of each pipeline, by name.

    Args:
        config: The whole configuration.
        compose: Function that returns the configuration with other choices and overrides, as for ``plan``.
        stages: All stages, each after the stages it builds on.

    Raises:
        UserError: An entry of ``evaluate.pipelines`` is wrong.
    """
    groups = _groups(stages)
    if config.evaluate.pipelines:
        return {name: _composed(name, chosen, compose, groups) for name, chosen in config.evaluate.pipelines.items()}
    return {"-".join(getattr(config, group).name for group in groups): config}


def runs_of(pipelines: dict[str, Config], config: Config, stages: Sequence[Stage]) -> list[Run]:
    """Return the runs of all pipelines and of the stage that joins them if ``stage`` asks for it, without checks.

    Args:
        pipelines: The configuration of each pipeline, by name.
        config: The whole configuration.
        stages: All stages, each after the stages it builds on.

    Raises:
        UserError: The data cannot be read or do not fit the grid, or the pipelines' classifiers have other classes.
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
    """Print the action, the folder and the estimated cost of each run.

    Args:
        runs: The runs, from ``plan``.
        console: Console to print to.
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
    """Return the data, labelled with the classes of a classifier that is used as it is, if it has other classes.

    Raises:
        UserError: The classifiers of two pipelines have different classes, or the data have a task of their own.
    """
    found = {
        name: next((names for stage in stages if (names := stage.classes(one, data)) is not None), None)
        for name, one in pipelines.items()
    }
    first = next(iter(found.values()))
    if other := next((name for name, names in found.items() if names != first), None):
        raise UserError(
            f"evaluate.pipelines.{other}: its classifier has other classes than that of {next(iter(found))}; all "
            "pipelines must have the same classes"
        )
    if first is not None and described(data.task):
        raise UserError(
            f"data.task={data.task.name}: this classifier is used as it is and has classes of its own; remove data.task"
        )
    return data if first is None else Relabelled(data, first)


def _chain(
    config: Config, chosen: PipelineConfig | None, data: ImageDataModule, digest: str, stages: Sequence[Stage]
) -> list[Run]:
    """Return the runs of a pipeline in order, up to ``config.stage`` or the last stage that the pipeline has."""
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
    """Return the configuration of an entry of ``evaluate.pipelines``."""
    for override in chosen.overrides:
        if not re.match(rf"({'|'.join(groups)})\.|(seed|data\.grid)=", override):
            keys = ", ".join(f"{group}.*" for group in groups)
            raise UserError(
                f"evaluate.pipelines.{name}.overrides: {override}: pipelines may differ in {keys}, data.grid and seed "
                "only; set other keys for all pipelines"
            )
    choices = {group: choice for group in groups if (choice := getattr(chosen, group)) is not None}
    for before, group in pairwise(groups):
        if group in choices and before not in choices:
            raise UserError(
                f"evaluate.pipelines.{name}.{group}={choices[group]}: needs evaluate.pipelines.{name}.{before}, too"
            )
    return compose(choices, chosen.overrides)


def _groups(stages: Sequence[Stage]) -> list[str]:
    """Return the groups of the configuration that a pipeline chooses from, in the order of the stages."""
    return list(dict.fromkeys(stage.group for stage in stages if stage.group is not None))
