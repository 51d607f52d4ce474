"""The classifier stage: train the model that will be explained."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from fastshap_lab.checkpoints import fill, load_model, read_description, read_spec, read_state, save_model
from fastshap_lab.config import ClassifierConfig, Config
from fastshap_lab.errors import UserError
from fastshap_lab.files import open_file
from fastshap_lab.inference import load_classifier
from fastshap_lab.metrics import Imitation
from fastshap_lab.models import TASKS, Classifier, build_task
from fastshap_lab.models.freezing import frozen, load_matching
from fastshap_lab.models.heads import take_over_heads
from fastshap_lab.models.specs import ClassifierSpec, EncoderSpec
from fastshap_lab.models.tasks import described
from fastshap_lab.runs.costs import Work
from fastshap_lab.runs.run import Run, Stage
from fastshap_lab.stages.base import check_images, fit_run, network_description, settings_of, training_work
from fastshap_lab.stages.judgements import weights_without_pixels
from fastshap_lab.training.classifier import ClassifierTraining
from fastshap_lab.training.optim import check_optimizer

_CHECKPOINT = "checkpoint"


def settings(config: Config, digest: str) -> dict[str, Any]:
    """Return what can change the result: given models by their content, not their path."""
    own = {"classifier": _content(config.classifier), "precision": config.trainer.precision}
    return settings_of(config, own, digest)


def _content(config: ClassifierConfig) -> dict[str, Any]:
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
    check_optimizer(config.optim, "classifier")
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
    network = network_description(run, config).build()
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
        description = read_spec(str(config.path), ClassifierSpec).network
    else:
        task = run.data.task.fitted(run.data.dataset("train").labels)
        description = network_description(run, config, pixel_statistics(run) | described(task))
        network = description.build()
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
            fit_run(run, ClassifierTraining(network, config, run.config.seed, teacher), config, "classifier")
    save_model(run.model, network, ClassifierSpec(description, run.data.class_names).to_json())
    metric, classifier = Imitation(network.task), frozen(network).to(run.data.device)
    for image, label in run.data.batches("test"):
        logits = classifier(image)
        metric.update(logits.unsqueeze(1).cpu(), label.cpu(), logits.cpu())
    measures = metric.compute()
    return {f"test/{name}": measures[name] for name in network.task.measured}


def work(run: Run) -> Work:
    """Return what there is to do."""
    config = run.config.classifier

    def module() -> ClassifierTraining:
        teacher = None if config.teacher is None else load_classifier(config.teacher)
        return ClassifierTraining(untrained(run), config, run.config.seed, teacher)

    return training_work(run, config, module)


def untrained(run: Run) -> Classifier:
    """Return the classifier of a run's configuration, with any weights."""
    config = run.config.classifier
    return load_classifier(config.path) if config.path else network_description(run, config).build()


def pixel_statistics(run: Run) -> dict[str, list[float]]:
    """Return the pixel normalization: the configured one, or else the training images' own statistics."""
    config = run.config.classifier
    if config.mean is not None and config.std is not None:
        return {"mean": config.mean, "std": config.std}
    mean, std = run.data.dataset("train").pixel_statistics()
    return {"mean": config.mean or mean, "std": config.std or std}


def _encoder(folder: Path) -> Classifier:
    """Return what a pretraining has made: a network without a head."""
    return load_model(folder, EncoderSpec, lambda spec: spec.network.build())


def _check_folder(run: Run, key: str, path: str) -> None:
    data, given = run.data, read_spec(path, ClassifierSpec)
    size, names = given.network.image_size, given.class_names
    height, width = size
    if size != list(data.image_size):
        raise UserError(
            f"classifier.{key}={path}: takes images of {height}×{width}, and the data has {data.image_size}"
        )
    if (task := build_task(given.network.task, f"classifier.{key}={path}: task")).name != data.task.name:
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


def _warnings(run: Run, _: Mapping[str, float]) -> list[str]:
    line = weights_without_pixels(run.config.classifier)
    return [] if line is None else [line]


STAGE = Stage(
    "classifier",
    settings,
    check,
    make,
    group="classifier",
    parents=("pretrain",),
    part=lambda config: f"-{config.classifier.name}",
    trains=True,
    work=work,
    headline={f"test/{task.measured[0]}": ".4f" for task in TASKS.values()},
    warnings=_warnings,
)
