"""Making runs: reuse what is finished, resume what was begun, make the rest; and saying what came of it."""

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

_PATIENCE = 0.5  # seconds until it is looked again whether another process is done


def execute(runs: list[Run], console: Console) -> None:
    """Make the runs that are not finished, and print the result of each.

    While another process makes one of them, this process makes others: the same command, started several times, shares
    the work.

    Args:
        runs: Runs in the order of the plan.
        console: Where results are printed.

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
                        f"{run.stage.name:<10}  waiting for another process that makes {run.folder}", soft_wrap=True
                    )
            time.sleep(_PATIENCE)


def conclude(runs: list[Run], console: Console) -> None:
    """Say how true the values of each explainer are, where that was measured, and how to load it.

    Where W&B kept its runs on disk, the last line is the command that uploads them.

    Args:
        runs: Runs in the order of the plan, all of them finished.
        console: Where lines are printed.
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
    """Raise a ``UserError`` where nobody is going to make what a run builds on."""
    to_be_made = {run.fingerprint for run in left}
    for run in left:
        for parent in run.parents.values():
            if parent.fingerprint not in to_be_made and not parent.finished:
                reason = parent.flaw or f"{parent.folder}: not finished"
                raise UserError(f"{reason}; the {run.stage.name} builds on it: the same command makes it again")


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
    """Make one run unless it is there; return what was done and how long it took, or None if somebody else is at it."""
    if run.finished:  # without the lock, for which there is no place in a folder that is read-only
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
        torch.manual_seed(derive_seed(run.config.seed, run.stage.name))  # of the weights that training starts from
        finished = False
        try:
            with tracked(run):
                measures = run.stage.make(run)
                run.finish(measures, time.perf_counter() - start)
                finished = True
                log_outputs(run)
        except BaseException as error:
            if not finished:  # else W&B failed, which takes nothing from the result
                with suppress(OSError):  # on a full disk what matters is the error that comes first
                    run.stop("failed" if isinstance(error, Exception) else "interrupted", time.perf_counter() - start)
            raise
        return {"train": "trained", "resume": "resumed", "make": "made"}[action], time.perf_counter() - start
