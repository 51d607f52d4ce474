"""The classifier stage: train the model that will be explained."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastshap_lab.checkpoints import fill, read_description, read_state, save_model
from fastshap_lab.config import ClassifierConfig
from fastshap_lab.errors import UserError
from fastshap_lab.inference import load_classifier
from fastshap_lab.metrics import Imitation
from fastshap_lab.models import Classifier, build_classifier
from fastshap_lab.models.freezing import frozen
from fastshap_lab.stages.common import (
    Training,
    batches,
    check_images,
    device_of,
    fit,
    network_description,
)
from fastshap_lab.stages.runs import Run

_CHECKPOINT = "checkpoint"


class ClassifierTraining(Training):
    """Fit a classifier to labels. Batches hold ``image`` (B, C, H, W) and ``label`` (B,)."""

    network: Classifier

    def __init__(self, network: Classifier, config: ClassifierConfig, seed: int) -> None:
        super().__init__(network, config.optim, seed, monitor="val/cross_entropy")
        self.label_smoothing = config.label_smoothing

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the cross-entropy against smoothed labels."""
        logits = self.network(batch["image"])
        loss = F.cross_entropy(logits, batch["label"], label_smoothing=self.label_smoothing)
        self.log_epoch({"train/loss": loss, "train/accuracy": _accuracy(logits, batch["label"])}, len(logits))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log plain cross-entropy and accuracy."""
        logits, label = self.network(batch["image"]), batch["label"]
        logged = {"val/cross_entropy": F.cross_entropy(logits, label), "val/accuracy": _accuracy(logits, label)}
        self.log_epoch(logged, len(logits))


def content(config: ClassifierConfig) -> dict[str, Any]:
    """Return what a configuration says about the result: given weights by their content, not their path."""
    plain = asdict(config)
    if config.weights is not None:
        plain["weights"] = hashlib.sha256(_file(config.weights).read_bytes()).hexdigest()
    if config.path is not None:
        plain = {"path": read_description(config.path, "classifier")}
    return plain


def check(run: Run) -> None:
    """Raise a ``UserError`` where the network cannot be built, or given weights do not fit the data."""
    config = run.config.classifier
    if config.name == _CHECKPOINT:
        _check_folder(run)
        return
    if config.epochs == 0 and config.weights is None:
        raise UserError("classifier.epochs=0: nothing to train from; name a file in classifier.weights")
    network = build_classifier(**network_description(run, config))
    check_images(network, "classifier", torch.zeros(2, 3, *run.data.image_size))
    if config.weights is not None:
        with torch.device("cpu"):
            replaced = fill(network.network, read_state(config.weights), config.weights)
        if replaced and config.epochs == 0:
            raise UserError(
                f"classifier.epochs=0: {config.weights} was trained on other classes, and its new head needs training"
            )


def make(run: Run) -> dict[str, float]:
    """Train or take over, export, and return measures on the test images."""
    config = run.config.classifier
    if config.name == _CHECKPOINT:
        network = load_classifier(str(config.path))
        description = read_description(str(config.path), "classifier")["network"]
    else:
        description = network_description(run, config, _pixels(run))
        network = build_classifier(**description)
        if config.weights is not None:
            fill(network.network, read_state(config.weights), config.weights)
        if config.epochs:
            fit(ClassifierTraining(network, config, run.config.seed), run, config)
    save_model(run.model, network, {"kind": "classifier", "network": description, "class_names": run.data.class_names})
    metric, classifier = Imitation(), frozen(network).to(device_of(run))
    for image, label in batches(run, "test"):
        logits = classifier(image)
        metric.update(logits.unsqueeze(1).cpu(), label.cpu(), logits.cpu())
    measures = metric.compute()
    return {"test/accuracy": measures["accuracy"], "test/cross_entropy": measures["cross_entropy"]}


def _accuracy(logits: Tensor, label: Tensor) -> Tensor:
    return (logits.argmax(dim=-1) == label).float().mean()


def _pixels(run: Run) -> dict[str, list[float]]:
    """Return the pixel normalization: the configured one, or else the training images' own statistics."""
    config = run.config.classifier
    if config.mean is not None and config.std is not None:
        return {"mean": config.mean, "std": config.std}
    mean, std = run.data.dataset("train").pixel_statistics()
    return {"mean": config.mean or mean, "std": config.std or std}


def _check_folder(run: Run) -> None:
    path, data = run.config.classifier.path, run.data
    if path is None:
        raise UserError("classifier.path: missing; classifier=checkpoint needs the model folder of a classifier")
    given = read_description(path, "classifier")
    size, names = given["network"]["image_size"], given["class_names"]
    if list(size) != list(data.image_size):
        raise UserError(
            f"classifier.path={path}: takes images of {size[0]}×{size[1]}, and the data has {data.image_size}"
        )
    if names != data.class_names:
        raise UserError(
            f"classifier.path={path}: has {len(names)} classes {names}, and the data has {data.class_names}"
        )


def _file(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(
            f"classifier.weights={path}: no such file; a safetensors file or a PyTorch state dict is wanted"
        )
    return Path(path)
