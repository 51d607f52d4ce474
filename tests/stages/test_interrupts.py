"""SIGINT and SIGTERM: the step is finished, a checkpoint written, one line said, and the same command ends the same."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout
from lightning.pytorch import LightningModule, Trainer

from fastshap_lab.errors import Interrupted, UserError
from fastshap_lab.runs.run import METRICS_FILE, Run
from fastshap_lab.stages import classifier
from fastshap_lab.training.callbacks import FiniteLoss
from fastshap_lab.training.classifier import ClassifierTraining
from tests.interruptions import (
    BASE,
    STAGES,
    Killed,
    assert_same_result,
    command,
    kill_at,
    signal_at,
    take_over,
)
from tests.parts import first, pairwise
from tests.small_runs import executed, planned, pretend_cross_entropies

STEPS = 3  # per epoch, of which there are three


@contextmanager
def at_work_elsewhere(run: Run) -> Iterator[Path]:
    """Let another process hold a run's lock; it is killed in the end."""
    lock = run.folder.parent / f".{run.fingerprint[:8]}.lock"
    lock.parent.mkdir(parents=True)
    program = f"import filelock\nwith filelock.FileLock({str(lock)!r}): print('held', flush=True), input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", program], text=True, **pipes) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield lock
        finally:
            process.kill()


def step_of(run: Run) -> int:
    return torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


@pytest.mark.parametrize(
    ("stage", "point", "call", "steps"),
    pairwise(
        list(STAGES),
        [
            ("training_step", 1, 1),
            ("training_step", 5, 5),
            ("training_step", 6, 6),  # an epoch's last step: its validation belongs to it
            ("validation_step", 3, 6),
            ("training_step", 9, 9),
        ],
    ),
)
def test_an_interrupted_stage_goes_on_from_its_step_to_the_same_end(
    tmp_path, monkeypatch, uninterrupted, stage, point, call, steps
):
    folder, runs = uninterrupted
    take_over(runs[: list(STAGES).index(stage)], folder, tmp_path)
    settings = [f"stage={stage}", f"runs_dir={tmp_path}"]
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    training = STAGES[stage][1]
    with monkeypatch.context() as patch:
        signal_at(patch, training, point, call, signal.SIGTERM)
        with pytest.raises(
            Interrupted, match=f"^interrupted; the same command goes on from step {steps} of the {stage}$"
        ):
            executed(*settings, base=BASE)
    run = planned(*settings, base=BASE)[-1]
    assert (run.record()["status"], run.action, step_of(run)) == ("interrupted", "resume", steps)
    with monkeypatch.context() as patch:
        calls = signal_at(patch, training, "training_step", 0)
        executed(*settings, base=BASE)
    assert calls() == 3 * STEPS - steps  # no step is made twice
    assert_same_result(folder / run.folder.relative_to(tmp_path), run.folder)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize(
    "schedule",
    first(1, ["one_cycle", "plateau", "cosine", "constant"]),
)
def test_a_training_interrupted_at_every_step_ends_the_same(tmp_path, monkeypatch, schedule):
    settings = ["stage=classifier", f"classifier.optim.schedule={schedule}"]
    uninterrupted = executed(*settings, f"runs_dir={tmp_path / 'a'}")[-1].folder
    for _ in range(3 * STEPS):
        with monkeypatch.context() as patch:
            signal_at(patch, ClassifierTraining, "training_step", 1, signal.SIGINT)
            with pytest.raises(Interrupted):
                executed(*settings, f"runs_dir={tmp_path / 'b'}")
    assert_same_result(uninterrupted, executed(*settings, f"runs_dir={tmp_path / 'b'}")[-1].folder)


@pytest.mark.parametrize("call", first(2, [6, 12, 1, 4, 7]))
def test_an_interrupted_early_stopping_goes_on(tmp_path, monkeypatch, call):
    pretend_cross_entropies(monkeypatch, 3.0, 1.0, 2.0, 4.0)  # never asked for more
    settings = ["stage=classifier", "classifier.patience=2", "classifier.epochs=30"]
    uninterrupted = executed(*settings, f"runs_dir={tmp_path / 'a'}")[-1].folder
    with monkeypatch.context() as patch:
        signal_at(patch, ClassifierTraining, "training_step", call, signal.SIGINT)
        with pytest.raises(Interrupted):
            executed(*settings, f"runs_dir={tmp_path / 'b'}")
    assert_same_result(uninterrupted, executed(*settings, f"runs_dir={tmp_path / 'b'}")[-1].folder)


def test_a_kill_after_an_interruption_repeats_from_its_step(tmp_path, monkeypatch):
    settings = ["stage=classifier"]
    uninterrupted = executed(*settings, f"runs_dir={tmp_path / 'a'}")[-1].folder
    with monkeypatch.context() as patch:
        signal_at(patch, ClassifierTraining, "training_step", 4, signal.SIGINT)
        with pytest.raises(Interrupted):
            executed(*settings, f"runs_dir={tmp_path / 'b'}")
    with monkeypatch.context() as patch:
        kill_at(patch, ClassifierTraining, "training_step", 2)
        with pytest.raises(Killed):
            executed(*settings, f"runs_dir={tmp_path / 'b'}")
    assert_same_result(uninterrupted, executed(*settings, f"runs_dir={tmp_path / 'b'}")[-1].folder)


def test_the_second_signal_ends_a_training_at_once(tmp_path, monkeypatch):
    settings = ["stage=classifier", f"runs_dir={tmp_path}"]
    with monkeypatch.context() as patch:
        calls = signal_at(patch, ClassifierTraining, "validation_step", 1, signal.SIGTERM, signal.SIGINT)
        with pytest.raises(Interrupted, match=r"goes on from what is saved$") as end:
            executed(*settings)
    (run,) = planned(*settings)
    assert (end.value.status, calls(), run.record()["status"], run.action) == (130, 1, "interrupted", "train")


def test_a_training_outside_the_main_thread_takes_no_signals(tmp_path):
    thread = threading.Thread(target=executed, args=("stage=classifier", f"runs_dir={tmp_path}"))
    thread.start()
    thread.join()
    (run,) = planned("stage=classifier", f"runs_dir={tmp_path}")
    assert run.finished


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize(
    ("owner", "name", "where"),
    [
        (ClassifierTraining, "training_step", "step 2 of the classifier"),
        (ClassifierTraining, "configure_optimizers", "what is saved"),
        (classifier, "save_model", "what is saved"),
    ],
)
def test_a_signal_is_one_line_and_a_status(tmp_path, monkeypatch, capsys, owner, name, where, number, status):
    words = ["stage=classifier", f"runs_dir={tmp_path}"]
    with monkeypatch.context() as patch:
        patch.setattr(Run, "cost", lambda *_: None)  # whose measurement trains, too
        signal_at(patch, owner, name, 2 if name == "training_step" else 1, number)
        ended, _, said = command(patch, capsys, *words)
    assert (ended, said) == (status, f"interrupted; the same command goes on from {where}\n")
    (run,) = planned(*words)
    assert run.record()["status"] == "interrupted"
    assert not run.model.exists()
    assert command(monkeypatch, capsys, *words)[0] == 0


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_measurement_of_a_cost(tmp_path, monkeypatch, capsys, number, status):
    signal_at(monkeypatch, ClassifierTraining, "training_step", 2, number)
    ended, _, said = command(monkeypatch, capsys, "stage=classifier", f"runs_dir={tmp_path}")
    assert (ended, said) == (status, "interrupted; the same command goes on from what is saved\n")
    assert not list(tmp_path.iterdir())


def test_a_signal_ends_the_wait_for_another_process(tmp_path, monkeypatch, capsys):
    words = ["stage=classifier", f"runs_dir={tmp_path}"]
    (run,) = planned(*words)
    with at_work_elsewhere(run), monkeypatch.context() as patch:
        signal_at(patch, time, "sleep", 3, signal.SIGTERM)  # how the lock waits
        ended, out, said = command(patch, capsys, *words)
    assert ended == 143
    assert out.splitlines()[-1] == f"classifier  waiting for another process, which makes {run.folder}"
    assert said == "interrupted; the same command goes on from what is saved\n"
    assert not run.folder.exists()


def test_the_lock_of_a_dead_process_holds_nobody_up(tmp_path, capsys):
    (run,) = planned("stage=classifier", f"runs_dir={tmp_path}")
    with at_work_elsewhere(run) as lock, pytest.raises(Timeout):
        FileLock(lock).acquire(timeout=0)
    executed("stage=classifier", f"runs_dir={tmp_path}")
    assert lock.is_file()
    assert run.finished


def test_no_checkpoint_inside_an_epoch_holds_a_loss_that_is_not_finite(tmp_path):
    # On a GPU the loss is looked at once per epoch; a signal may come before.
    callback, trainer = FiniteLoss("classifier"), Trainer(logger=False, enable_checkpointing=False, barebones=True)
    callback.on_fit_start(trainer, LightningModule())
    callback.on_save_checkpoint(trainer, LightningModule(), {})
    callback._bad.fill_(3.0)
    with pytest.raises(UserError, match="not a finite number at step 3"):
        callback.on_save_checkpoint(trainer, LightningModule(), {})


def test_the_curves_are_means_over_all_images(tmp_path, monkeypatch):
    losses = iter(range(100))

    def step(self: ClassifierTraining, batch: dict[str, torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = self.network(batch["image"]).sum() * 0 + next(losses)
        self.log_epoch({"train/loss": loss}, [1, 1, 2][batch_idx])
        return loss

    monkeypatch.setattr(ClassifierTraining, "training_step", step)
    (run,) = executed("stage=classifier", f"runs_dir={tmp_path}")
    rows = [line.split(",") for line in (run.folder / METRICS_FILE).read_text().splitlines()]
    means = [float(row[rows[0].index("train/loss")]) for row in rows[1:]]
    assert means == [(0 + 1 + 2 * 2) / 4, (3 + 4 + 2 * 5) / 4, (6 + 7 + 2 * 8) / 4]
