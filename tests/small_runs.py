"""Runs that take a second, configured and planned as ``train.py`` does it."""

from pathlib import Path

import pytest
import torch
from rich.console import Console

from fastshap_lab.compose import compose
from fastshap_lab.config import Config
from fastshap_lab.runs.execute import execute
from fastshap_lab.runs.plan import plan
from fastshap_lab.runs.run import Run
from fastshap_lab.stages import STAGES
from fastshap_lab.training.classifier import ClassifierTraining
from fastshap_lab.training.trainer import device_of

torch.set_num_threads(1)  # networks this small only lose by more

TRAIN = str(Path(__file__).parents[1] / "train.py")

TINY = [
    "data=synthetic",
    "data.params={num_classes: 3, image_size: 16, num_train: 48, num_val: 24, num_test: 24}",
    "data.grid=[2,2]",
    *(
        f"{stage}.{setting}"
        for stage in ("classifier", "surrogate", "explainer")
        for setting in ("epochs=3", "batch_size=16", "optim.lr=1e-3")
    ),
    "explainer.num_coalitions=4",
    "explainer.labels={evaluations: 8, copies: 0}",
    "references={val: 2, test: 2}",
    "evaluate={images_shown: 2, bootstrap: 10}",
]
RESNET = [f"{stage}.params.channels=[8,8,8,8]" for stage in ("classifier", "surrogate")]
UNET = ["explainer.params.channels=[8,8]"]
PRETRAIN = [
    *(word for word in TINY if not word.startswith("classifier.")),
    "stage=pretrain",
    "classifier=mae_vit",
    "classifier.params={patch_size: 4, width: 12, depth: 1, mlp_width: 16, drop_path: 0.1}",
    "classifier.epochs=1",
    "classifier.batch_size=16",
    "classifier.pretrain.params={decoder_width: 12, decoder_depth: 1}",
    "classifier.pretrain.epochs=3",
    "classifier.pretrain.batch_size=16",
    "surrogate.params.channels=[8,8,8,8]",
]


def configured(*overrides: str, base: list[str] | None = None) -> Config:
    """Compose the tiny configuration, or another base, with overrides."""
    return compose([*((*TINY, *RESNET, *UNET) if base is None else base), *overrides])


def planned(*overrides: str, base: list[str] | None = None) -> list[Run]:
    """Plan it."""

    def again(choices: dict[str, str], further: list[str]) -> Config:
        return configured(*[f"{group}={choice}" for group, choice in choices.items()], *further, *overrides, base=base)

    config = configured(*overrides, base=base)
    return plan(config, again, STAGES, device_of(config.trainer))


def executed(*overrides: str, base: list[str] | None = None) -> list[Run]:
    """Run it."""
    runs = planned(*overrides, base=base)
    execute(runs, Console(quiet=True))
    return runs


def pretend_cross_entropies(monkeypatch: pytest.MonkeyPatch, *values: float) -> None:
    """Let the validations of a classifier's epochs say what a test needs."""

    def step(self: ClassifierTraining, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        self.log_epoch({"val/cross_entropy": values[self.current_epoch], "val/accuracy": 0.5}, len(batch["label"]))

    monkeypatch.setattr(ClassifierTraining, "validation_step", step)
