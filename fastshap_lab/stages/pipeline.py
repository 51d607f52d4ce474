"""Which stages a run needs, and making them: reuse what is finished, resume what was begun, make the rest."""

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from types import ModuleType
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from fastshap_lab.config import GROUPS, STAGES, Config, PipelineConfig, lookup
from fastshap_lab.data import ImageDataModule, build_data
from fastshap_lab.errors import UserError
from fastshap_lab.models import TASKS
from fastshap_lab.records import REPORT, true_value_measures
from fastshap_lab.seeding import derive_seed
from fastshap_lab.shapley import PlayerGrid
from fastshap_lab.stages import classifier, evaluate, explainer, labels, pretrain, surrogate
from fastshap_lab.stages.common import build_trainer
from fastshap_lab.stages.judgements import warnings_of
from fastshap_lab.stages.optim import OPTIMIZERS, SCHEDULES
from fastshap_lab.stages.references import reference_settings
from fastshap_lab.stages.runs import Run
from fastshap_lab.stages.sources import with_sources
from fastshap_lab.stages.tracking import tracked

_MODULES: dict[str, ModuleType] = dict(
    zip(STAGES, (pretrain, classifier, surrogate, labels, explainer, evaluate), strict=True)
)
_PRECISE = (
    "test/loss",
    *(f"test/{task.measured[0]}" for task in TASKS.values()),
    *(f"test/{masked}{task.imitation}" for task in TASKS.values() for masked in ("", "masked_")),
    "test/additive_r2",
    "test/efficiency_gap",
)
_HEADLINES = dict.fromkeys(_PRECISE, ".4f") | {"passes": ",.0f"}
_PATIENCE = 0.5  # seconds until it is looked again whether another process is done

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
    if config.evaluate.pipelines:
        configs = {name: _composed(name, chosen, compose) for name, chosen in config.evaluate.pipelines.items()}
    for one in configs.values():
        _check_names(one)
    trainer = build_trainer(config.trainer)
    runs = runs_of(configs, config)
    for run in runs:
        run.data.trainer = trainer  # so that images and models are on its device, whether anything is trained or not
        with torch.device("meta"):  # neither memory nor time
            _MODULES[run.stage].check(run)
    return runs


def runs_of(configs: dict[str, Config], config: Config) -> list[Run]:
    """Return the runs of pipelines and, where it is asked for, of their evaluation.

    Args:
        configs: Of each pipeline, by name.
        config: The whole configuration.
    """
    data = build_data(config.data.name, config.data.params, config.data.task)
    for one in (config, *configs.values()):
        one.surrogate.loss = one.surrogate.loss or data.task.surrogate_losses[0]
        one.explainer.link = one.explainer.link or data.task.links[0]
    for one in configs.values():
        try:
            PlayerGrid(data.image_size, (one.data.grid[0], one.data.grid[1]))
        except UserError as error:
            raise UserError(f"data.grid: {error}") from None
    digest = data.digest()
    chains = {
        name: _chain(one, data, digest, _last_stage(one, config.evaluate.pipelines.get(name)))
        for name, one in configs.items()
    }
    runs = {run.fingerprint: run for chain in chains.values() for run in chain}
    if config.stage in ("all", "evaluate"):
        settings = asdict(config.evaluate) | {"references": reference_settings(config, "test")}
        del settings["pipelines"]  # the parents say it
        ends = {name: chain[-1] for name, chain in chains.items()}
        name = config.name or config.data.name
        if not config.evaluate.pipelines:
            name += f"-{'-'.join(chains)}"
        run = Run("evaluate", name, with_sources({"evaluate": settings}), ends, config, data)
        runs[run.fingerprint] = run
    return list(runs.values())


def show(runs: list[Run], console: Console) -> None:
    """Print what making the runs will do."""
    for run in runs:
        console.print(f"{run.stage:<10}  {run.plan:<7}  {run.folder}", soft_wrap=True)
        if run.flaw is not None:
            console.print(f"{run.stage:<10}  again:   {run.flaw}", soft_wrap=True)


def execute(runs: list[Run], console: Console) -> None:
    """Make what is not there yet, and say what came of each.

    What another process is making already is left to it while there is something else to do: the same command, started
    several times, shares the work.

    Raises:
        UserError: What a run builds on is gone or was changed, and is not among those to be made.
    """
    left, announced = list(runs), set[str]()
    while left:
        _check_parents(left)
        ready = [run for run in left if all(parent.finished for parent in run.parents.values())]
        for run in ready:
            if (made := _make(run)) is not None:
                left.remove(run)
                _say(run, *made, console)
                break
        else:
            for run in ready:
                if run.fingerprint not in announced:
                    announced.add(run.fingerprint)
                    console.print(
                        f"{run.stage:<10}  waiting for another process that makes {run.folder}", soft_wrap=True
                    )
            time.sleep(_PATIENCE)


def conclude(runs: list[Run], console: Console) -> None:
    """Say of each explainer that was asked for how true its values are, where that was measured, and how to load it."""
    evaluation = next((run for run in runs if run.stage == "evaluate"), None)
    measured = {} if evaluation is None else true_value_measures(evaluation.measures())
    ends = [("", run) for run in runs] if evaluation is None else evaluation.parents.items()
    for name, run in ends:
        if run.stage == "explainer":
            if name in measured:
                console.print(f"{name}: {measured[name][0]} against true values", soft_wrap=True, markup=False)
            place = json.dumps(run.folder.as_posix(), ensure_ascii=False)
            console.print(f"explainer = fsl.load_explainer({place})", soft_wrap=True, markup=False)


def _check_parents(left: list[Run]) -> None:
    """Raise a ``UserError`` where nobody is going to make what a run builds on."""
    to_be_made = {run.fingerprint for run in left}
    for run in left:
        for parent in run.parents.values():
            if parent.fingerprint not in to_be_made and not parent.finished:
                reason = parent.flaw or f"{parent.folder}: not finished"
                raise UserError(f"{reason}; the {run.stage} builds on it: the same command makes it again")


def _say(run: Run, done: str, seconds: float, console: Console) -> None:
    measures = run.measures()
    said = [
        f"{name.removeprefix('test/')} {measures[name]:{form}}" for name, form in _HEADLINES.items() if name in measures
    ]
    result = str(run.folder / REPORT) if run.stage == "evaluate" else "  ".join(said)
    console.print(f"{run.stage:<10}  {done:<7}  {seconds:7.1f} s  {result}", soft_wrap=True)
    for line in warnings_of(run, measures):
        console.print(f"{run.stage:<10}  warning  {line}", soft_wrap=True, markup=False)


def _make(run: Run) -> tuple[str, float] | None:
    """Make one run unless it is there; return what was done and how long it took, or None if somebody else is at it."""
    if run.finished:  # without the lock, for which there is no place in a folder that is read-only
        return "reused", 0.0
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(run.folder.parent / f".{run.fingerprint[:8]}.lock").acquire(timeout=0)
    except Timeout:
        return None
    with lock:
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


def _composed(name: str, chosen: PipelineConfig, compose: Compose) -> Config:
    """Return the configuration of one of ``evaluate.pipelines``."""
    for override in chosen.overrides:
        if not re.match(r"(classifier|surrogate|explainer)\.|(seed|data\.grid)=", override):
            raise UserError(
                f"evaluate.pipelines.{name}.overrides: {override}: pipelines differ in classifier.*, surrogate.*, "
                "explainer.*, data.grid and seed alone; set anything else outside of them"
            )
    if chosen.explainer and not chosen.surrogate:
        raise UserError(f"evaluate.pipelines.{name}.explainer={chosen.explainer}: needs a surrogate, too")
    choices = {group: choice for group in GROUPS if (choice := getattr(chosen, group)) is not None}
    return compose(choices, chosen.overrides)


def _last_stage(config: Config, chosen: PipelineConfig | None) -> str:
    """Return where a pipeline ends: at the stage that is wanted, or before if it has no more."""
    last = "explainer" if chosen is None or chosen.explainer else "surrogate" if chosen.surrogate else "classifier"
    if config.stage == "pretrain" and config.classifier.pretrain is None:
        raise UserError("stage=pretrain: this classifier is not pretrained; classifier=mae_vit is")
    return min(last, config.stage, key=STAGES.index) if config.stage in STAGES else last


def _check_names(config: Config) -> None:
    """Raise a ``UserError`` where an optimizer or a schedule is unknown."""
    trainings = {group: getattr(config, group) for group in GROUPS} | {
        "classifier.pretrain": config.classifier.pretrain
    }
    for name, training in trainings.items():
        if training is not None:
            lookup(OPTIMIZERS, f"{name}.optim.name", training.optim.name)
            lookup(dict.fromkeys(SCHEDULES), f"{name}.optim.schedule", training.optim.schedule)


def _chain(config: Config, data: ImageDataModule, digest: str, last: str) -> list[Run]:
    """Return the runs of a pipeline, its beginning first, up to a stage."""
    runs: dict[str, Run] = {}
    name, precision = config.name or config.data.name, {"precision": config.trainer.precision}

    def add(stage: str, suffix: str, **settings: Any) -> None:
        nonlocal name
        name += suffix
        sourced = with_sources(settings, *([config.data.name] if "data" in settings else []))
        runs[stage] = Run(stage, name, sourced | {"seed": config.seed}, dict(runs), config, data)

    # What a parent was made from need not be said again: its fingerprint counts.
    if config.classifier.pretrain is not None:
        add("pretrain", "", pretrain=pretrain.content(config.classifier), data=digest, **precision)
    content = classifier.content(config.classifier)
    add("classifier", f"-{config.classifier.name}", classifier=content, data=digest, **precision)
    content = asdict(config.surrogate)
    add("surrogate", f"-by-{config.surrogate.name}", surrogate=content, grid=config.data.grid, **precision)
    if "labels" in (config.stage, config.explainer.loss):
        add("labels", "", labels=asdict(config.explainer.labels), link=config.explainer.link)
    add("explainer", f"-{config.explainer.name}", explainer=explainer.content(config), **precision)
    return [run for stage, run in runs.items() if STAGES.index(stage) <= STAGES.index(last)]
