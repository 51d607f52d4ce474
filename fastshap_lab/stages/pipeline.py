"""Which stages a run needs, and making them: reuse what is finished, resume what was begun, make the rest."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from types import ModuleType
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from fastshap_lab.config import STAGES, TRAINED, Config, PipelineConfig, build, lookup
from fastshap_lab.data import DATASETS, ImageDataModule
from fastshap_lab.errors import UserError
from fastshap_lab.seeding import derive_seed
from fastshap_lab.shapley import PlayerGrid
from fastshap_lab.stages import classifier, evaluate, explainer, labels, surrogate
from fastshap_lab.stages.common import build_trainer
from fastshap_lab.stages.optim import OPTIMIZERS, SCHEDULES
from fastshap_lab.stages.runs import Run
from fastshap_lab.stages.tracking import tracked

_MODULES: dict[str, ModuleType] = dict(zip(STAGES, (classifier, surrogate, labels, explainer, evaluate), strict=True))
_PRECISE = ("test/accuracy", "test/kl", "test/masked_kl", "test/additive_r2", "test/efficiency_gap")
_HEADLINES = dict.fromkeys(_PRECISE, ".4f") | {"passes": ",.0f"}

Compose = Callable[[dict[str, str], list[str]], Config]


def plan(config: Config, compose: Compose) -> list[Run]:
    """Return the runs that a configuration asks for, each after those it builds on.

    Whatever can be checked before the first of them starts is checked here.

    Args:
        config: The whole configuration.
        compose: Gives it with other choices and further overrides; for ``evaluate.pipelines``.

    Raises:
        UserError: A setting is wrong, or two of them do not go together.
    """
    configs = {f"{config.classifier.name}-{config.surrogate.name}-{config.explainer.name}": config}
    if config.evaluate.pipelines and config.stage in ("all", "evaluate"):
        configs = {name: _composed(name, chosen, compose) for name, chosen in config.evaluate.pipelines.items()}
    for one in configs.values():
        _check_names(one)
    trainer = build_trainer(config.trainer)
    runs = runs_of(configs, config)
    for run in runs:
        run.data.trainer = trainer  # so that images and models are on its device, whether anything is trained or not
        if run.stage != "evaluate":
            with torch.device("meta"):  # neither memory nor time
                _MODULES[run.stage].check(run)
    return runs


def runs_of(configs: dict[str, Config], config: Config) -> list[Run]:
    """Return the runs of pipelines and, where it is asked for, of their evaluation.

    Args:
        configs: Of each pipeline, by name.
        config: The whole configuration.
    """
    data = _data(config)
    digest = data.digest()
    chains = {name: _chain(one, data, digest) for name, one in configs.items()}
    runs = {run.fingerprint: run for chain in chains.values() for run in chain}
    if config.stage in ("all", "evaluate"):
        references = config.references
        settings = asdict(config.evaluate) | {"references": [references.test, references.test_evaluations]}
        del settings["pipelines"]  # the parents say it
        explainers = {name: chain[-1] for name, chain in chains.items()}
        name = f"{config.name or config.data.name}-{'-'.join(chains)}"
        run = Run("evaluate", name, {"evaluate": settings}, explainers, config, data)
        runs[run.fingerprint] = run
    return list(runs.values())


def show(runs: list[Run], console: Console) -> None:
    """Print what making the runs will do."""
    for run in runs:
        console.print(f"{run.stage:<10}  {run.plan:<7}  {run.folder}", soft_wrap=True)


def execute(runs: list[Run], console: Console) -> None:
    """Make what is not there yet, and say what came of each."""
    for run in runs:
        done, seconds = _make(run, console)
        measures = run.measures()
        said = [
            f"{name.removeprefix('test/')} {measures[name]:{form}}"
            for name, form in _HEADLINES.items()
            if name in measures
        ]
        result = str(run.folder / evaluate.REPORT) if run.stage == "evaluate" else "  ".join(said)
        console.print(f"{run.stage:<10}  {done:<7}  {seconds:7.1f} s  {result}", soft_wrap=True)


def _make(run: Run, console: Console) -> tuple[str, float]:
    """Make one run unless it is there; return what was done and how long it took."""
    if run.finished:  # without the lock, for which there is no place in a folder that is read-only
        return "reused", 0.0
    with _alone(run, console):
        action, start = run.plan, time.perf_counter()
        if action == "reuse":
            return "reused", 0.0
        run.begin()
        torch.manual_seed(derive_seed(run.config.seed, run.stage))  # of the weights that training starts from
        try:
            with tracked(run):
                measures = _MODULES[run.stage].make(run)
                if run.tracker:
                    run.tracker.log(measures)
        except BaseException as error:
            with suppress(OSError):  # on a full disk what matters is the error that comes first
                run.stop("failed" if isinstance(error, Exception) else "interrupted", time.perf_counter() - start)
            raise
        run.finish(measures, time.perf_counter() - start)
        return {"train": "trained", "resume": "resumed", "make": "made"}[action], time.perf_counter() - start


@contextmanager
def _alone(run: Run, console: Console) -> Iterator[None]:
    """Let no other process make the same run meanwhile; wait for one that does."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder.parent / f".{run.fingerprint[:8]}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        console.print(f"{run.stage:<10}  waiting for another process that makes {run.folder}", soft_wrap=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _composed(name: str, chosen: PipelineConfig, compose: Compose) -> Config:
    """Return the configuration of one of ``evaluate.pipelines``."""
    for override in chosen.overrides:
        if not re.match(r"(classifier|surrogate|explainer)\.|seed=", override):
            raise UserError(
                f"evaluate.pipelines.{name}.overrides: {override}: pipelines differ in classifier.*, surrogate.*, "
                "explainer.* and seed alone; set anything else outside of them"
            )
    return compose({group: getattr(chosen, group) for group in TRAINED}, chosen.overrides)


def _check_names(config: Config) -> None:
    """Raise a ``UserError`` where an optimizer or a schedule is unknown."""
    for stage in TRAINED:
        optim = getattr(config, stage).optim
        lookup(OPTIMIZERS, f"{stage}.optim.name", optim.name)
        lookup(dict.fromkeys(SCHEDULES), f"{stage}.optim.schedule", optim.schedule)


def _data(config: Config) -> ImageDataModule:
    data = build(DATASETS, "data", config.data.name, config.data.params)
    try:
        PlayerGrid(data.image_size, (config.data.grid[0], config.data.grid[1]))
    except UserError as error:
        raise UserError(f"data.grid: {error}") from None
    return data


def _chain(config: Config, data: ImageDataModule, digest: str) -> list[Run]:
    """Return the runs of a pipeline, classifier first, up to the stage that is wanted."""
    runs: dict[str, Run] = {}
    name, precision = config.name or config.data.name, {"precision": config.trainer.precision}

    def add(stage: str, suffix: str, **settings: Any) -> None:
        nonlocal name
        name += suffix
        runs[stage] = Run(stage, name, settings | {"seed": config.seed}, dict(runs), config, data)

    # What a parent was made from need not be said again: its fingerprint counts.
    content = classifier.content(config.classifier)
    add("classifier", f"-{config.classifier.name}", classifier=content, data=digest, **precision)
    content = asdict(config.surrogate)
    add("surrogate", f"-by-{config.surrogate.name}", surrogate=content, grid=config.data.grid, **precision)
    if "labels" in (config.stage, config.explainer.loss):
        add("labels", "", labels=asdict(config.explainer.labels), link=config.explainer.link)
    add("explainer", f"-{config.explainer.name}", explainer=explainer.content(config), **precision)
    stages = list(runs)
    last = stages.index(config.stage) if config.stage in stages else len(stages) - 1
    return list(runs.values())[: last + 1]
