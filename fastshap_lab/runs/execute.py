"""Execution of runs: finished ones are reused, interrupted trainings resumed, others made; each result is printed."""

import json
import math
import time
from contextlib import suppress

import torch
from filelock import FileLock, Timeout
from rich.console import Console

from fastshap_lab.errors import UserError
from fastshap_lab.records import REPORT, true_value_measures
from fastshap_lab.runs.run import Run
from fastshap_lab.runs.tracking import log_again, log_outputs, tracked, upload_command
from fastshap_lab.seeding import derive_seed

_PATIENCE = 0.5  # seconds between two checks whether another process has finished a run


def execute(runs: list[Run], console: Console) -> None:
    """Make the runs that are not finished, and print a line about the result of each.

    A run that another process is making is left to that process, so that the same command, started several times,
    shares the work.

    Args:
        runs: The runs, each after the runs it builds on.
        console: Console to print to.

    Raises:
        UserError: A run that another one builds on is missing or was changed, and is not in ``runs``.
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
                        f"{run.stage.name:<10}  waiting for another process, which makes {run.folder}", soft_wrap=True
                    )
            time.sleep(_PATIENCE)


def conclude(runs: list[Run], console: Console) -> None:
    """Print for each explainer its error against true values, if it was measured, and the code that loads it.

    If W&B runs are on disk, the last line is the command that uploads them.

    Args:
        runs: The runs of a plan, finished.
        console: Console to print to.
    """
    joined = next((run for run in runs if run.stage.joins), None)
    measured = {} if joined is None else true_value_measures(joined.measures())
    ends = [("", run) for run in runs] if joined is None else joined.parents.items()
    for name, run in ends:
        if run.stage.loading is not None:
            if name in measured:
                console.print(f"{name}: {measured[name][0]} against true values", soft_wrap=True, markup=False)
            place = json.dumps(run.folder.as_posix(), ensure_ascii=False)
            console.print(run.stage.loading.format(place=place), soft_wrap=True, markup=False)
    if (command := upload_command(runs[0].config)) is not None:
        console.print(command, soft_wrap=True, markup=False)


def _check_parents(left: list[Run]) -> None:
    """Raise a ``UserError`` if a run builds on one that is neither finished nor going to be made."""
    to_be_made = {run.fingerprint for run in left}
    for run in left:
        for parent in run.parents.values():
            if parent.fingerprint not in to_be_made and not parent.finished:
                reason = parent.flaw or f"{parent.folder}: not finished"
                raise UserError(
                    f"{reason}; the stage {run.stage.name} needs it: run the same command again, which makes it"
                )


def _say(run: Run, done: str, seconds: float, console: Console) -> None:
    measures = run.measures()
    said = [
        f"{name.removeprefix('test/')} {_in_words(measures[name], form)}"
        for name, form in run.stage.headline.items()
        if name in measures
    ]
    result = str(run.folder / REPORT) if run.stage.reports else "  ".join(said)
    console.print(f"{run.stage.name:<10}  {done:<7}  {seconds:7.1f} s  {result}", soft_wrap=True)
    for line in run.stage.warnings(run, measures):
        console.print(f"{run.stage.name:<10}  warning  {line}", soft_wrap=True, markup=False)


def _in_words(measure: float, form: str) -> str:
    return "unknown" if math.isnan(measure) else f"{measure:{form}}"


def _make(run: Run) -> tuple[str, float] | None:
    """Make a run unless it is finished; return the action and its seconds, or None if another process is making it."""
    if run.finished:  # before the lock, which cannot be created in a read-only folder
        log_again(run)
        return "reused", 0.0
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(run.lock).acquire(timeout=0)
    except Timeout:
        return None
    with lock:
        action, start = run.action, time.perf_counter()
        if action == "reuse":
            log_again(run)
            return "reused", 0.0
        run.begin()
        torch.manual_seed(derive_seed(run.config.seed, run.stage.name))  # for the initial weights of a training
        finished = False
        try:
            with tracked(run):
                measures = run.stage.make(run)
                run.finish(measures, time.perf_counter() - start)
                finished = True
                log_outputs(run)
        except BaseException as error:
            if not finished:  # otherwise W&B failed, and the result is complete
                with suppress(OSError):  # on a full disk the first error is the one to show
                    run.stop("failed" if isinstance(error, Exception) else "interrupted", time.perf_counter() - start)
            raise
        return {"train": "trained", "resume": "resumed", "make": "made"}[action], time.perf_counter() - start
