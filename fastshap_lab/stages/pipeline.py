"""Which stages a run needs, and making them: reuse what is finished, resume what was begun, make the rest."""

import time
from collections.abc import Callable
from types import ModuleType

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

from fastshap_lab.config import STAGES, Config, TrainingConfig, build, lookup
from fastshap_lab.data import DATASETS, ImageDataModule
from fastshap_lab.errors import UserError
from fastshap_lab.shapley import PlayerGrid
from fastshap_lab.stages import classifier, evaluate, explainer, surrogate
from fastshap_lab.stages.optim import OPTIMIZERS, SCHEDULES
from fastshap_lab.stages.runs import Run, component

_MODULES: dict[str, ModuleType] = dict(zip(STAGES, (classifier, surrogate, explainer, evaluate), strict=True))
_TRAINED = STAGES[:3]


def plan(config: Config, compose: Callable[[list[str]], Config]) -> list[Run]:
    """Return the runs that a configuration asks for, each after those it builds on.

    Whatever can be checked before the first of them starts is checked here.

    Args:
        config: The whole configuration.
        compose: Gives the configuration with further overrides; for ``evaluate.pipelines``.

    Raises:
        UserError: A setting is wrong, or two of them do not go together.
    """
    lookup(dict.fromkeys((*STAGES, "all")), "stage", config.stage)
    stage, evaluates = config.stage, config.stage in ("all", "evaluate")
    configs = {f"{config.classifier.name}-{config.surrogate.name}-{config.explainer.name}": config}
    if evaluates and config.evaluate.pipelines:
        configs = {
            name: compose([f"{group}={getattr(chosen, group)}" for group in _TRAINED] + list(chosen.overrides))
            for name, chosen in config.evaluate.pipelines.items()
        }
    data = _data(config)
    digest = data.digest()
    chains = {}
    for name, one in configs.items():
        if component(one.data) != component(config.data):
            raise UserError(
                f"evaluate.pipelines.{name}.overrides: pipelines share their images; set data.* outside of them"
            )
        chains[name] = _chain(one, data, digest)
    last = _TRAINED.index(stage) if stage in _TRAINED else len(_TRAINED)
    runs = {run.fingerprint: run for chain in chains.values() for run in chain[: last + 1]}
    for run in runs.values():
        _check(run)
    if evaluates:
        explainers = {name: chain[-1] for name, chain in chains.items()}
        name = f"{config.name or config.data.name}-{'-'.join(chains)}"
        settings = {"evaluate": component(config.evaluate, "pipelines"), "grid": list(config.data.grid)}
        run = Run("evaluate", name, settings, explainers, config, data)
        runs[run.fingerprint] = run
    return list(runs.values())


def execute(runs: list[Run], console: Console) -> None:
    """Make what is not there yet, and say at the end where everything is."""
    table = Table("stage", "", "seconds", "measures", box=None, header_style="bold", pad_edge=False)
    for run in runs:
        action, seconds = _make(run, console)
        measures = "  ".join(f"{name.removeprefix('test/')} {value:.4f}" for name, value in run.measures().items())
        table.add_row(run.stage, action, f"{seconds:.1f}", measures)
    console.print(table)
    for run in runs:
        console.print(
            f"{run.stage:<10} {run.folder / evaluate.REPORT if run.stage == 'evaluate' else run.model}", soft_wrap=True
        )


def show(runs: list[Run], console: Console) -> None:
    """Print what making the runs will do."""
    for run in runs:
        console.print(f"{run.stage:<10} {run.plan:<8} {run.folder}", soft_wrap=True, highlight=False)


def _make(run: Run, console: Console) -> tuple[str, float]:
    """Make one run unless it is there, alone in its folder; return what was done and how long it took."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder.with_name(f".{run.folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"{run.stage}: another process is making {run.folder}, waiting for it", soft_wrap=True)
        lock.acquire()
    try:
        action, start = run.plan, time.perf_counter()
        if action == "reuse":
            return "reused", 0.0
        run.begin()
        try:
            measures = _MODULES[run.stage].make(run)
        except BaseException:
            run.stop("failed", time.perf_counter() - start)
            raise
        run.finish(measures, time.perf_counter() - start)
        return {"train": "trained", "resume": "resumed", "make": "made"}[action], time.perf_counter() - start
    finally:
        lock.release()


def _data(config: Config) -> ImageDataModule:
    data = build(DATASETS, "data", config.data.name, component(config.data)["params"])
    if len(config.data.grid) != 2:
        raise UserError(f"data.grid={list(config.data.grid)}: must be two numbers, rows and columns of players")
    try:
        PlayerGrid(data.image_size, (config.data.grid[0], config.data.grid[1]))
    except UserError as error:
        raise UserError(f"data.grid: {error}") from None
    return data


def _chain(config: Config, data: ImageDataModule, digest: str) -> list[Run]:
    """Return the runs of a pipeline: classifier, surrogate, explainer."""
    runs: list[Run] = []
    name = config.name or config.data.name
    for stage, joint in zip(_TRAINED, ("-", "-by-", "-"), strict=True):
        training: TrainingConfig = getattr(config, stage)
        settings = {stage: component(training), "precision": config.trainer.precision, "seed": config.seed}
        # What a parent was made from need not be said again: its fingerprint counts.
        settings |= {"data": digest} if stage == "classifier" else {"grid": list(config.data.grid)}
        name = f"{name}{joint}{training.name}"
        runs.append(Run(stage, name, settings, {parent.stage: parent for parent in runs}, config, data))
    return runs


def _check(run: Run) -> None:
    """Raise a ``UserError`` where a trained stage's settings are wrong."""
    training: TrainingConfig = getattr(run.config, run.stage)
    lookup(OPTIMIZERS, f"{run.stage}.optim.name", training.optim.name)
    lookup(dict.fromkeys(SCHEDULES), f"{run.stage}.optim.schedule", training.optim.schedule)
    for key, least in (("epochs", 1), ("batch_size", 1), ("num_coalitions", 1)):
        if getattr(training, key, least) < least:
            raise UserError(f"{run.stage}.{key}={getattr(training, key)}: must be at least {least}")
    with torch.device("meta"):  # neither memory nor time
        _MODULES[run.stage].check(run)
