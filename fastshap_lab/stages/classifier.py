"""The classifier stage: train the model that will be explained."""

import hashlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastshap_lab.checkpoints import fill, load_model, read_description, read_state, save_model
from fastshap_lab.config import ClassifierConfig
from fastshap_lab.errors import UserError
from fastshap_lab.files import open_file
from fastshap_lab.inference import load_classifier
from fastshap_lab.metrics import Imitation
from fastshap_lab.models import Classifier, build_classifier, build_task
from fastshap_lab.models.freezing import frozen, load_matching
from fastshap_lab.models.heads import take_over_heads
from fastshap_lab.models.tasks import described
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
    """Fit a classifier to labels and, if it has a teacher, to that one's answers.

    Batches hold ``image`` (B, C, H, W) and ``label`` (B,) or (B, K), as the classifier's task has them.

    Reference: Touvron et al., Training data-efficient image transformers & distillation through attention, ICML 2021,
    arXiv:2012.12877, section 4, on hard-label distillation.
    """

    network: Classifier

    def __init__(
        self, network: Classifier, config: ClassifierConfig, seed: int, teacher: Classifier | None = None
    ) -> None:
        super().__init__(network, config.optim, seed, monitor=f"val/{network.task.minimized}")
        self.label_smoothing = config.label_smoothing
        self._teacher = [] if teacher is None else [frozen(teacher)]  # neither trained nor saved with this module
        self.two_heads = teacher is not None and hasattr(network.network, "set_distilled_training")
        if self.two_heads:
            network.network.set_distilled_training(True)  # two answers while it trains, their mean otherwise

    def on_fit_start(self) -> None:
        """Bring the teacher along."""
        for teacher in self._teacher:
            teacher.to(self.device)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Return the task's loss against smoothed labels, or the mean of it and of that against the teacher's labels.

        A network with two heads learns the one in the first and the other in the second.
        """
        image, label, task = batch["image"], batch["label"], self.network.task
        if self.two_heads:
            logits, distilled = self.network.network(self.network.normalize(image))
        else:
            logits = distilled = self.network(image)
        loss = task.loss(logits, label, self.label_smoothing)
        for teacher in self._teacher:
            with torch.no_grad():
                taught = task.decide(teacher(image))
            loss = (loss + task.loss(distilled, taught)) / 2
        self.log_epoch({"train/loss": loss, **self._right("train", (logits + distilled) / 2, label)}, len(label))
        return loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Log the loss against the labels as they are, and the share of right answers."""
        logits, label = self.network(batch["image"]), batch["label"]
        logged = {self.monitor: self.network.task.loss(logits, label), **self._right("val", logits, label)}
        self.log_epoch(logged, len(logits))

    def _right(self, split: str, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        task = self.network.task
        return {f"{split}/{task.measured[0]}": task.right(logits.unsqueeze(1), label).float().mean()}


def content(config: ClassifierConfig) -> dict[str, Any]:
    """Return what a configuration says about the result: given models by their content, not their path."""
    plain = asdict(config) | {"pretrain": None}  # which the parent says
    if config.teacher is not None:
        plain["teacher"] = read_description(config.teacher, "classifier")
    if config.weights is not None:
        with open_file(_file(config.weights)) as file:
            plain["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    if config.path is not None:
        plain = {"path": read_description(config.path, "classifier")}
    return plain


def check(run: Run) -> None:
    """Raise a ``UserError`` where the network cannot be built, or given weights do not fit the data."""
    config = run.config.classifier
    if config.teacher is not None and (config.name == _CHECKPOINT or config.epochs == 0):
        raise UserError(f"classifier.teacher={config.teacher}: nobody to teach, this classifier is not trained")
    if config.name == _CHECKPOINT:
        if config.path is None:
            raise UserError("classifier.path: missing; classifier=checkpoint needs the model folder of a classifier")
        _check_folder(run, "path", config.path)
        return
    if config.teacher is not None:
        _check_folder(run, "teacher", config.teacher)
    if config.epochs == 0 and config.weights is None:
        raise UserError("classifier.epochs=0: nothing to train from; name a file in classifier.weights")
    network = build_classifier(**network_description(run, config))
    check_images(network, "classifier", (2, run.data.num_classes), torch.zeros(2, 3, *run.data.image_size))
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
        task = run.data.task.fitted(run.data.dataset("train").labels)
        description = network_description(run, config, pixel_statistics(run) | described(task))
        network = build_classifier(**description)
        if "pretrain" in run.parents:
            load_matching(network, _encoder(run.parents["pretrain"].model).state_dict())
        if config.weights is not None and not fill(network.network, read_state(config.weights), config.weights):
            take_over_heads(network.network)
        if config.epochs:
            if not bool(task.labelled(run.data.dataset("train").labels).all()):
                raise UserError(
                    f"classifier.epochs={config.epochs}: {run.config.data.name} does not say what images show; "
                    "classifier.epochs=0 takes given weights (classifier.weights) as they are"
                )
            teacher = None if config.teacher is None else load_classifier(config.teacher)
            fit(ClassifierTraining(network, config, run.config.seed, teacher), run, config)
    save_model(run.model, network, {"kind": "classifier", "network": description, "class_names": run.data.class_names})
    metric, classifier = Imitation(network.task), frozen(network).to(device_of(run))
    for image, label in batches(run, "test"):
        logits = classifier(image)
        metric.update(logits.unsqueeze(1).cpu(), label.cpu(), logits.cpu())
    measures = metric.compute()
    return {f"test/{name}": measures[name] for name in network.task.measured}


def pixel_statistics(run: Run) -> dict[str, list[float]]:
    """Return the pixel normalization: the configured one, or else the training images' own statistics."""
    config = run.config.classifier
    if config.mean is not None and config.std is not None:
        return {"mean": config.mean, "std": config.std}
    mean, std = run.data.dataset("train").pixel_statistics()
    return {"mean": config.mean or mean, "std": config.std or std}


def _encoder(folder: Path) -> Classifier:
    """Return what a pretraining has made: a network without a head."""
    return load_model(folder, "encoder", lambda description: build_classifier(**description["network"]))


def _check_folder(run: Run, key: str, path: str) -> None:
    data, given = run.data, read_description(path, "classifier")
    try:
        size, names, task = given["network"]["image_size"], given["class_names"], given["network"].get("task")
        height, width = size
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(
            f"classifier.{key}={path}: its config.json is no classifier's, it lacks sizes or names"
        ) from None
    if list(size) != list(data.image_size):
        raise UserError(
            f"classifier.{key}={path}: takes images of {height}×{width}, and the data has {data.image_size}"
        )
    if (task := build_task(task, f"classifier.{key}={path}: task")).name != data.task.name:
        raise UserError(f"classifier.{key}={path}: learned the task {task.name}, and the data's is {data.task.name}")
    if names != data.class_names:
        raise UserError(
            f"classifier.{key}={path}: has {len(names)} classes {names}, and the data has {data.class_names}"
        )


def _file(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(
            f"classifier.weights={path}: no such file; a safetensors file or a PyTorch state dict is wanted"
        )
    return Path(path)
