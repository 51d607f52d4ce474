"""A training that was stopped anywhere ends as if it had not been, to the bit."""

import shutil

import pytest
import torch
from lightning.pytorch import Trainer
from rich.console import Console

from fastshap_lab.errors import UserError
from fastshap_lab.runs.execute import execute
from fastshap_lab.runs.plan import show
from fastshap_lab.stages import classifier
from tests.interruptions import BASE, STAGES, Killed, assert_same_result, kill_at, stop_and_go_on, take_over
from tests.parts import first, pairwise
from tests.small_runs import executed, planned, pretend_cross_entropies


@pytest.mark.parametrize(
    ("stage", "point", "call"),
    pairwise(
        list(STAGES),
        [("training_step", 1), ("training_step", 5), ("validation_step", 3), ("best", 2), ("last", 2), ("export", 1)],
    ),
)
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


@pytest.mark.parametrize("schedule", first(2, ["one_cycle", "plateau", "cosine", "constant"]))
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
        f"classifier  again:   {last}: changed since it was written, or damaged; the training starts again"
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
