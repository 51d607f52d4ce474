"""Runs that are killed or interrupted somewhere, and what they end in."""

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from rich.console import Console

from fastshap_lab.cli import main
from fastshap_lab.runs.execute import execute
from fastshap_lab.runs.run import Run
from fastshap_lab.stages import classifier, explainer, surrogate
from fastshap_lab.training import training
from tests.small_runs import RESNET, TINY, UNET, executed, planned

STAGES: dict[str, tuple[ModuleType, type[training.Training]]] = {
    "classifier": (classifier, classifier.ClassifierTraining),
    "surrogate": (surrogate, surrogate.SurrogateTraining),
    "explainer": (explainer, explainer.ExplainerTraining),
}
# Augmentation, BatchNorm, paired draws, dropped paths.
BASE = [
    *TINY,
    RESNET[0],
    "classifier.augment={flip: true, crop_padding: 1, rotation: 0.1}",
    "surrogate=vit_slim",
    "surrogate.params={width: 8, depth: 2, num_heads: 2, mlp_width: 8, drop_path: 0.5}",
    "surrogate.optim={schedule: cosine, lr: 1e-3}",
    *UNET,
    "explainer.optim.clip_norm=0.1",
]


class Killed(BaseException):
    """No part of the program expects it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int) -> None:
    """Let a function raise instead of doing its work, at its given call."""
    original, calls = getattr(owner, name), iter(range(1, 1_000))

    def dying(*args: object, **kwargs: object) -> object:
        if next(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, dying)


def stop_and_go_on(
    monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int, *overrides: str, base: list[str] | None = None
) -> Path:
    """Run, be killed, run again; return the last run's folder."""
    with monkeypatch.context() as patch:
        kill_at(patch, owner, name, call)
        with pytest.raises(Killed):
            executed(*overrides, base=base)
    run = planned(*overrides, base=base)[-1]
    assert run.record()["status"] == "interrupted"
    execute([run], Console(quiet=True))
    return run.folder


def signal_at(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, call: int, *numbers: int) -> Callable[[], int]:
    """Let signals come when a function's given call begins; return what tells how often it was called."""
    original, calls = getattr(owner, name), []

    def signalled(*args: object, **kwargs: object) -> object:
        calls.append(name)
        if len(calls) == call:
            for number in numbers:
                os.kill(os.getpid(), number)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, signalled)
    return lambda: len(calls)


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return exit status, output and errors of ``train.py`` run in this process."""
    monkeypatch.setattr(sys, "argv", ["train.py", *TINY, *RESNET, *words])
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0), *capsys.readouterr()
    return 0, *capsys.readouterr()


def take_over(runs: list[Run], folder: Path, other: Path) -> None:
    """Let another folder of runs hold what a stage builds on."""
    for run in runs:
        shutil.copytree(run.folder, other / run.folder.relative_to(folder))


def plain(part: object) -> object:
    """Return nested values with tensors as bytes: equal to the bit, or not equal."""
    if isinstance(part, dict):
        return {key: plain(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [plain(value) for value in part]
    return part.numpy().tobytes() if isinstance(part, torch.Tensor) else repr(part)


def assert_same_result(first: Path, second: Path) -> None:
    for name in ("model/model.safetensors", "model/config.json", "metrics.csv", "metrics.json"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    last, other = (torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True) for folder in (first, second))
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "callbacks", "epoch", "global_step"):
        assert plain(last[part]) == plain(other[part]), part
