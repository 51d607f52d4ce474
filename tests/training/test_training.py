"""What all trainings share: one stops where its loss is no number, writes its course, keeps quiet on a pipe."""

import math
import re
import signal
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from safetensors.torch import load_file
from torch import nn

from fastshap_lab.config import OptimConfig, TrainerConfig
from fastshap_lab.errors import UserError
from fastshap_lab.models import CLASSIFIERS, ModelGame
from fastshap_lab.training import explainer, training
from fastshap_lab.training.classifier import ClassifierTraining
from fastshap_lab.training.optim import OPTIMIZERS, SCHEDULES, build_optimizer
from tests.small_runs import executed, planned, pretend_cross_entropies


def test_a_loss_that_is_no_number_stops_the_training_and_keeps_the_last_good_epoch(tmp_path, monkeypatch):
    settings = ["stage=classifier", f"runs_dir={tmp_path}"]
    original, steps = ClassifierTraining.training_step, iter(range(1, 100))

    def step(self: ClassifierTraining, batch: dict, batch_idx: int) -> torch.Tensor:
        loss = original(self, batch, batch_idx)
        return loss * math.nan if next(steps) == 8 else loss  # of three steps per epoch

    with monkeypatch.context() as patch:
        patch.setattr(ClassifierTraining, "training_step", step)
        line = (
            "classifier: the loss is not a finite number at step 8, epoch 3; the checkpoint of the epoch before is kept"
        )
        with pytest.raises(UserError, match=line):
            executed(*settings)
    (run,) = planned(*settings)
    assert (run.record()["status"], run.action) == ("failed", "resume")
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(weights.isfinite().all() for weights in last["state_dict"].values())
    assert pd.read_csv(run.folder / "metrics.csv")["epoch"].tolist() == [0, 1]
    assert not run.model.exists()


def test_a_learning_rate_that_is_far_too_high_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"lower classifier\.optim\.lr or set classifier\.optim\.clip_norm"):
        executed("stage=classifier", "classifier.optim={name: sgd, lr: 1e30}", f"runs_dir={tmp_path}")


def test_the_course_belongs_to_its_epoch(tmp_path, monkeypatch):
    means: list[float] = []

    class Losses(Callback):
        def on_train_epoch_start(self, trainer: Trainer, pl_module: ClassifierTraining) -> None:
            self.losses: list[float] = []

        def on_train_batch_end(self, *arguments: object) -> None:
            self.losses.append(arguments[2]["loss"].item())

        def on_train_epoch_end(self, *_: object) -> None:
            means.append(sum(self.losses) / len(self.losses))

    monkeypatch.setattr(training, "EpochBar", lambda *_: Losses())
    (run,) = executed("stage=classifier", f"runs_dir={tmp_path}")
    history = pd.read_csv(run.folder / "metrics.csv")
    assert history["epoch"].tolist() == [0, 1, 2]
    assert history["train/loss"].tolist() == pytest.approx(means, rel=1e-5)
    assert not history.isna().any(axis=None)


def test_values_of_validation_are_asked_for_once_where_there_is_room(tmp_path, monkeypatch):
    ask, histories = ModelGame.__call__, []
    # Three epochs over 24 images in batches of 16: room for all values, for those of the first batch, for none.
    for kept, expected in ((2**28, 24), (12000, 24 + 2 * 8), (0, 3 * 24)):  # 652 bytes of an image
        asked = []

        def noted(game, image, coalitions, asked=asked):
            if coalitions.shape[1] == 32:  # as many as of nothing but validation
                asked.append(len(image))
            return ask(game, image, coalitions)

        with monkeypatch.context() as patch:
            patch.setattr(explainer, "_KEPT", kept)
            patch.setattr(ModelGame, "__call__", noted)
            *_, run = executed("stage=explainer", f"runs_dir={tmp_path / str(kept)}")
        assert sum(asked) == expected
        histories.append((run.folder / "metrics.csv").read_text())
    assert histories[0] == histories[1] == histories[2]


def test_the_best_epoch_is_what_is_exported(tmp_path, monkeypatch):
    pretend_cross_entropies(monkeypatch, 3.0, 1.0, math.nan, 2.0)
    (run,) = executed("stage=classifier", "classifier.epochs=4", f"runs_dir={tmp_path}")
    best = torch.load(run.folder / "checkpoints" / "best.ckpt", weights_only=True)
    exported = load_file(run.model / "model.safetensors")
    assert best["epoch"] == 1
    torch.testing.assert_close({f"network.{name}": weights for name, weights in exported.items()}, best["state_dict"])


def test_a_measure_that_is_never_a_number_is_an_error(tmp_path, monkeypatch):
    pretend_cross_entropies(monkeypatch, *3 * [math.nan])
    with pytest.raises(UserError, match="val/cross_entropy was never a finite number"):
        executed("stage=classifier", f"runs_dir={tmp_path}")


@pytest.mark.parametrize(
    ("of", "line"),
    [
        (lambda logits: logits[:, :1], r"classifier: its network's output for 2 images is of shape \(2, 1\), must be"),
        (
            lambda logits: SimpleNamespace(logits=logits),
            r"network('s answer to 2 images is of type Simple| does not take .* Type-check)",
        ),
        (lambda logits: logits.argmax(), r"is of shape \(\): must be a tensor of shape \(2, 3\)"),
    ],
)
def test_a_network_whose_answers_are_no_logits_is_found_in_the_plan(tmp_path, monkeypatch, of, line):
    class Own(nn.Module):
        def __init__(
            self, num_classes: int, image_size: Any, in_chans: int, channels: Any, depths: Any, strides: Any
        ) -> None:
            super().__init__()
            self.head = nn.Linear(in_chans, num_classes)

        def forward(self, pixels: torch.Tensor) -> Any:
            return of(self.head(pixels.mean(dim=(2, 3))))

    monkeypatch.setitem(CLASSIFIERS, "own", Own)
    with pytest.raises(UserError, match=line) as raised:
        planned("classifier.name=own", "stage=classifier", f"runs_dir={tmp_path}")
    assert "\n" not in str(raised.value)


def test_a_plateau_is_seen_by_the_schedule(tmp_path, monkeypatch):
    pretend_cross_entropies(monkeypatch, *8 * [1.0])
    settings = ["classifier.epochs=8", "classifier.optim={lr: 0.002, schedule: plateau}"]
    (run,) = executed("stage=classifier", *settings, f"runs_dir={tmp_path}")
    assert pd.read_csv(run.folder / "metrics.csv")["lr"].tolist() == 6 * [0.002] + 2 * [0.001]


def test_ctrl_c_passes_through_lightning(tmp_path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ClassifierTraining, "training_step", interrupt)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            executed("stage=classifier", f"runs_dir={tmp_path}")
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning lets it be ignored
    assert planned("stage=classifier", f"runs_dir={tmp_path}")[0].record()["status"] == "interrupted"


def test_nothing_is_said_on_a_pipe(tmp_path, capfd):
    executed("stage=surrogate", f"runs_dir={tmp_path}")
    assert capfd.readouterr() == ("", "")


def test_a_progress_bar_is_for_terminals(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    executed("stage=classifier", f"runs_dir={tmp_path}")
    said = capsys.readouterr()
    assert "\x1b[?25l" in said.err  # hides the cursor
    assert not said.out


def test_elsewhere_long_work_says_how_far_it_is_in_plain_lines(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fastshap_lab.progress.EVERY", 0.0)  # seconds
    executed("stage=explainer", f"runs_dir={tmp_path}")
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert not said.out
    for stage in ("classifier", "surrogate", "explainer"):  # three epochs of three steps
        of_stage = [line for line in lines if line.startswith(stage)]
        assert [line.split(" after ")[0].split(maxsplit=1)[1] for line in of_stage] == [
            f"{n} of 9" for n in range(1, 10)
        ]
        assert re.search(r" after \d+ s  epoch 2/3  val/\w+ \d+\.\d{4}$", of_stage[-1])
    assert re.fullmatch(r"labels      1 of 1 after \d+ s", next(line for line in lines if line.startswith("labels")))


def test_lightning_writes_nothing_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    executed("stage=classifier")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


@pytest.mark.parametrize("settings", [{"precision": "7"}, {"accelerator": "x"}, {"strategy": "x"}, {"devices": "x"}])
def test_a_trainer_that_lightning_refuses(settings):
    with pytest.raises(UserError, match="trainer: ") as error:
        training.build_trainer(TrainerConfig(**{"accelerator": "cpu"} | settings))
    assert "\n" not in str(error.value)


def rates(num_steps: int, **settings: object) -> list[float]:
    """Return the learning rate of each step."""
    built = build_optimizer(nn.Linear(2, 2), OptimConfig(lr=2.0, **settings), num_steps, "loss")
    optimizer, scheduler = built["optimizer"], built["lr_scheduler"]["scheduler"]
    seen = []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_a_schedule_rises_to_the_rate_and_falls_to_nothing(schedule):
    seen = rates(20, schedule=schedule, warmup=0.25)
    peak = seen.index(max(seen))
    assert seen[peak] == pytest.approx(2.0)
    assert peak == 4
    assert seen[: peak + 1] == sorted(seen[: peak + 1])
    assert seen[peak:] == sorted(seen[peak:], reverse=True)
    assert seen[-1] < 0.05


def test_a_constant_rate_is_constant_after_its_warmup():
    assert rates(10, schedule="constant", warmup=0.4) == pytest.approx([0.5, 1.0, 1.5] + 7 * [2.0])
    assert rates(3, schedule="constant", warmup=0.0) == [2.0] * 3


def test_a_plateau_halves_the_rate():
    built = build_optimizer(nn.Linear(2, 2), OptimConfig(lr=2.0, schedule="plateau"), 10, "val/loss")
    assert built["lr_scheduler"]["monitor"] == "val/loss"
    for _ in range(8):
        built["lr_scheduler"]["scheduler"].step(1.0)
    assert built["optimizer"].param_groups[0]["lr"] == 1.0


def test_biases_and_norms_do_not_decay():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    for name in OPTIMIZERS:
        groups = build_optimizer(module, OptimConfig(name=name, weight_decay=0.3), 10, "loss")["optimizer"].param_groups
        assert {group["weight_decay"]: sum(p.numel() for p in group["params"]) for group in groups} == {0.0: 9, 0.3: 6}


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_training_of_one_step_has_a_schedule(schedule):
    assert len(rates(1, schedule=schedule) if schedule != "plateau" else [2.0]) == 1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_clipped_in_half_precision_too(name, tmp_path):
    clipped = [f"classifier.optim.name={name}", "classifier.optim.clip_norm=0.1", "trainer.precision=bf16-mixed"]
    (run,) = executed("stage=classifier", "classifier.epochs=1", f"runs_dir={tmp_path}", *clipped)
    assert run.finished
