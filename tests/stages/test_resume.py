"""A training that was stopped anywhere ends as if it had not been, to the bit."""

import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from lightning.pytorch import Trainer
from rich.console import Console

from fastshap_lab.errors import UserError
from fastshap_lab.runs.execute import execute
from fastshap_lab.runs.plan import show
from fastshap_lab.runs.run import Run
from fastshap_lab.stages import classifier, explainer, surrogate
from fastshap_lab.training import training
from tests.small_runs import RESNET, TINY, UNET, executed, planned, pretend_cross_entropies

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


def take_over(runs: list[Run], folder: Path, other: Path) -> None:
    """Let another folder of runs hold what a stage builds on."""
    for run in runs:
        shutil.copytree(run.folder, other / run.folder.relative_to(folder))


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, executed("stage=explainer", f"runs_dir={folder}", base=BASE)


@pytest.mark.parametrize(
    ("point", "call"),
    [("training_step", 1), ("training_step", 5), ("validation_step", 3), ("best", 2), ("last", 2), ("export", 1)],
)
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_killed_anywhere_goes_on_to_the_same_end(tmp_path, monkeypatch, uninterrupted, stage, point, call):
    folder, runs = uninterrupted
    take_over(runs[: list(STAGES).index(stage)], folder, tmp_path)
    module, training = STAGES[stage]
    if point == "export":
        owner, name = module, "save_model"
    elif point in ("best", "last"):
        owner, name = Trainer, "save_checkpoint"
        call = 3 if point == "best" else 4  # both files are written after the first epoch
    else:
        owner, name = training, point
    resumed = stop_and_go_on(monkeypatch, owner, name, call, f"stage={stage}", f"runs_dir={tmp_path}", base=BASE)
    assert_same_result(folder / resumed.relative_to(tmp_path), resumed)


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "plateau", "constant"])
def test_every_schedule_goes_on(tmp_path, monkeypatch, schedule):
    settings = ["stage=classifier", f"classifier.optim.schedule={schedule}"]
    uninterrupted = executed(*settings, f"runs_dir={tmp_path / 'a'}")[-1].folder
    training = classifier.ClassifierTraining
    resumed = stop_and_go_on(monkeypatch, training, "training_step", 8, *settings, f"runs_dir={tmp_path / 'b'}")
    assert_same_result(uninterrupted, resumed)


@pytest.mark.parametrize(("point", "call"), [("validation_step", 3), ("training_step", 11), ("save_model", 1)])
def test_early_stopping_goes_on(tmp_path, monkeypatch, point, call):
    pretend_cross_entropies(monkeypatch, 3.0, 1.0, 2.0, 4.0)  # never asked for more
    settings = ["stage=classifier", "classifier.patience=2", "classifier.epochs=30"]
    uninterrupted = executed(*settings, f"runs_dir={tmp_path / 'a'}")[-1].folder
    owner = classifier if point == "save_model" else classifier.ClassifierTraining
    resumed = stop_and_go_on(monkeypatch, owner, point, call, *settings, f"runs_dir={tmp_path / 'b'}")
    assert_same_result(uninterrupted, resumed)


def test_a_run_folder_may_move_before_it_goes_on(tmp_path, monkeypatch):
    pretend_cross_entropies(monkeypatch, 1.0, 3.0, 2.0)  # whoever forgets the first epoch takes the last for the best
    uninterrupted = executed("stage=classifier", f"runs_dir={tmp_path / 'a'}")[-1].folder
    with monkeypatch.context() as patch:
        kill_at(patch, classifier.ClassifierTraining, "training_step", 8)
        with pytest.raises(Killed):
            executed("stage=classifier", f"runs_dir={tmp_path / 'b'}")
    (tmp_path / "b").rename(tmp_path / "c")
    assert_same_result(uninterrupted, executed("stage=classifier", f"runs_dir={tmp_path / 'c'}")[-1].folder)


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    """Change one bit of the weights."""
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Return a run that was killed in its third epoch, and one that was not."""
    folder = tmp_path_factory.mktemp("interrupted")
    uninterrupted = executed("stage=classifier", f"runs_dir={folder / 'a'}")[-1]
    with pytest.MonkeyPatch.context() as patch:
        kill_at(patch, classifier.ClassifierTraining, "training_step", 8)
        with pytest.raises(Killed):
            executed("stage=classifier", f"runs_dir={folder / 'b'}")
    return folder / "b", uninterrupted.folder


@pytest.mark.parametrize("damage", [flip, cut, lambda _: b"", lambda _: b"text"], ids=["flip", "cut", "empty", "text"])
def test_with_its_last_checkpoint_damaged_a_training_starts_over_and_says_so(tmp_path, capsys, interrupted, damage):
    shutil.copytree(interrupted[0], tmp_path / "runs")
    (run,) = planned("stage=classifier", f"runs_dir={tmp_path / 'runs'}")
    assert run.action == "resume"
    last = run.folder / "checkpoints" / "last.ckpt"
    last.write_bytes(damage(last.read_bytes()))
    show([run], Console(width=80))
    said = capsys.readouterr().out.splitlines()
    assert said[0].split()[:2] == ["classifier", "train"]
    assert said[1:-1] == [
        f"classifier  again:   {last}: changed since it was written, or damaged; the training starts over"
    ]
    execute([run], Console(quiet=True))
    assert_same_result(interrupted[1], run.folder)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("damage", [flip, cut, None], ids=["flip", "cut", "missing"])
def test_a_damaged_best_checkpoint_is_named_and_never_exported(tmp_path, interrupted, damage, ended):
    shutil.copytree(interrupted[1].parents[1] if ended else interrupted[0], tmp_path / "runs")
    (run,) = planned("stage=classifier", f"runs_dir={tmp_path / 'runs'}")
    shutil.rmtree(run.model, ignore_errors=True)
    best = run.folder / "checkpoints" / "best.ckpt"
    if damage is None:
        best.unlink()
    else:
        best.write_bytes(damage(best.read_bytes()))
    last = best.with_name("last.ckpt").read_bytes()
    with pytest.raises(UserError, match=f"{best}: missing, or changed since.*; delete {best.parent} to train anew"):
        execute([run], Console(quiet=True))
    assert best.with_name("last.ckpt").read_bytes() == last
    assert not run.model.exists()
    shutil.rmtree(best.parent)
    assert run.action == "train"
    execute([run], Console(quiet=True))
    assert_same_result(interrupted[1], run.folder)


def test_the_seed_decides_everything_and_nothing_before_does(tmp_path):
    torch.manual_seed(1)
    first = executed("stage=classifier", f"runs_dir={tmp_path / 'a'}")[-1].folder
    torch.manual_seed(2)
    same = executed("stage=classifier", f"runs_dir={tmp_path / 'b'}")[-1].folder
    other = executed("stage=classifier", "seed=1", f"runs_dir={tmp_path / 'a'}")[-1].folder
    assert_same_result(first, same)
    weights = [(folder / "model" / "model.safetensors").read_bytes() for folder in (first, other)]
    assert weights[0] != weights[1]
