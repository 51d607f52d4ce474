"""The classifier stage, which trains or takes over the model that is explained."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastshap_lab.checkpoints import fill, load_model, read_description, read_spec, read_state, save_model
from fastshap_lab.config import ClassifierConfig, Config
from fastshap_lab.data import ImageDataModule
from fastshap_lab.errors import UserError
from fastshap_lab.files import open_file
from fastshap_lab.inference import load_classifier
from fastshap_lab.metrics import Imitation
from fastshap_lab.models import IMPORT, LIBRARIES, TASKS, Classifier, build_classifier, build_task
from fastshap_lab.models.foreign import bare
from fastshap_lab.models.freezing import frozen_copy, load_matching
from fastshap_lab.models.heads import heads_of, in_heads, take_over_heads
from fastshap_lab.models.libraries import PRETRAINED
from fastshap_lab.models.specs import ClassifierSpec, EncoderSpec
from fastshap_lab.models.tasks import described
from fastshap_lab.runs.costs import Work
from fastshap_lab.runs.run import Run, Stage
from fastshap_lab.stages.base import (
    check_images,
    fit_run,
    known_pixels,
    network_description,
    network_params,
    settings_of,
    stated,
    training_work,
)
from fastshap_lab.stages.imported import identity, own_module
from fastshap_lab.stages.judgements import weights_without_pixels
from fastshap_lab.training.classifier import ClassifierTraining
from fastshap_lab.training.optim import check_optimizer

_CHECKPOINT = "checkpoint"


def settings(config: Config, digest: str) -> dict[str, Any]:
    """Return everything that can change the result; models in files count by their content, not by their path.

    Args:
        config: The whole configuration.
        digest: Digest of the data.
    """
    own = {"classifier": _content(config.classifier), "precision": config.trainer.precision}
    return settings_of(config, own, digest)


def _content(config: ClassifierConfig) -> dict[str, Any]:
    plain = asdict(config) | {"pretrain": None}  # the fingerprint of the parent covers it
    if not config.freeze:
        del plain["freeze"]
    if (found := stated(config)) is not None:  # mean and std are the library's, not statistics of the data
        plain |= known_pixels(config)
        if config.params.get(PRETRAINED):
            plain["weights"] = found.weights
    plain["params"] = network_params(config)
    if config.name == IMPORT:
        plain["path"] = None
        plain["code"] = identity(_import_path(config), "classifier.path")
        plain |= known_pixels(config)
    if config.teacher is not None:
        plain["teacher"] = read_description(config.teacher, "classifier")
    if config.weights is not None:
        with open_file(_file(config.weights)) as file:
            plain["weights"] = hashlib.file_digest(file, "sha256").hexdigest()
    if config.path is not None and config.name != IMPORT:
        plain = {"path": read_description(config.path, "classifier")}
    return plain


def check(run: Run) -> None:
    """Raise a ``UserError`` if the network cannot be built, or weights from a file do not fit the data."""
    config = run.config.classifier
    check_optimizer(config.optim, "classifier")
    if not run.data.num_classes:
        raise UserError(
            f"data: {run.config.data.name} has no labels here; choose a classifier that is used as it is and has "
            "classes: classifier.epochs=0, with classifier.params.pretrained=true or classifier.weights"
        )
    if config.teacher is not None and (config.name == _CHECKPOINT or config.epochs == 0):
        raise UserError(
            f"classifier.teacher={config.teacher}: this classifier is not trained, so it cannot have a teacher; set "
            "classifier.teacher=null"
        )
    if config.name == _CHECKPOINT:
        if config.path is None:
            raise UserError("classifier.path: missing; classifier=checkpoint needs the model folder of a classifier")
        _check_folder(run, "path", config.path)
        return
    if config.teacher is not None:
        _check_folder(run, "teacher", config.teacher)
    given, pretrained = config.weights or config.params.get(PRETRAINED), config.params.get(PRETRAINED, False)
    if not isinstance(pretrained, bool) or (pretrained and config.name not in LIBRARIES):
        raise UserError(
            f"classifier.params.pretrained={pretrained}: must be true or false, and is for models of "
            f"{', '.join(LIBRARIES)} only"
        )
    if pretrained and config.weights is not None:
        raise UserError(
            f"classifier.params.pretrained=true, classifier.weights={config.weights}: only one of them can be set"
        )
    if config.epochs == 0 and not given and config.name != IMPORT:
        raise UserError(
            "classifier.epochs=0: an untrained classifier needs weights; name a file in classifier.weights, or set "
            "classifier.params.pretrained=true"
        )
    if config.name == IMPORT and config.epochs == 0 and known_pixels(config).keys() != {"mean", "std"}:
        raise UserError(
            f"classifier.path={config.path}: its pixel normalization is not known; set classifier.mean and "
            "classifier.std (ImageNet's: classifier.mean=[0.485,0.456,0.406] classifier.std=[0.229,0.224,0.225]; for "
            "inputs in [0, 1]: classifier.mean=[0,0,0] classifier.std=[1,1,1]), or give the module timm's "
            "pretrained_cfg"
        )
    with torch.device("cpu" if config.name == IMPORT else "meta"):  # a user's code may not work on the meta device
        network = network_description(run, config).build().eval()
        check_images(network, "classifier", (2, run.data.num_classes), torch.zeros(2, 3, *run.data.image_size))
    if config.weights is not None:
        with torch.device("cpu"):
            replaced = fill(bare(network.network), read_state(config.weights), config.weights)
        _check_head(config, config.weights, replaced)
    elif pretrained and (found := stated(config)) is not None:
        _check_head(config, found.weights, found.num_classes != run.data.num_classes)
    if config.freeze and not (given or config.name == IMPORT or config.pretrain):
        raise UserError(
            "classifier.freeze=true: only trained features can be frozen; name classifier.weights, or set "
            "classifier.params.pretrained=true"
        )
    if config.freeze and (not config.epochs or not in_heads(network.network)):
        reason = "the network has no head" if config.epochs else "with classifier.epochs=0"
        raise UserError(f"classifier.freeze=true: {reason} nothing is trained; set classifier.freeze=false")


def make(run: Run) -> dict[str, float]:
    """Train or take over the classifier, write its model folder, and return its measures on the test images."""
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
        inner = bare(network.network)
        if config.weights is not None:
            if not fill(inner, read_state(config.weights), config.weights):
                take_over_heads(network.network)
        elif config.params.get(PRETRAINED):
            state = LIBRARIES[config.name].weights(config.params, inner)
            replaced = fill(inner, state, config.params["model"])
            _check_head(config, f"{config.params['model']} of {config.name}", replaced)
            if not replaced:
                take_over_heads(network.network)
        if config.epochs:
            if not bool(task.labelled(run.data.dataset("train").labels).all()):
                raise UserError(
                    f"classifier.epochs={config.epochs}: {run.config.data.name} has images without labels; "
                    "classifier.epochs=0 uses weights (classifier.weights) as they are"
                )
            teacher = None if config.teacher is None else load_classifier(config.teacher)
            fit_run(run, ClassifierTraining(network, config, run.config.seed, teacher), config, "classifier")
    save_model(run.model, network, ClassifierSpec(description, run.data.class_names).to_json())
    metric, classifier = Imitation(network.task), frozen_copy(network).to(run.data.device)
    for image, label in run.data.batches("test"):
        logits = classifier(image)
        metric.update(logits.unsqueeze(1).cpu(), label.cpu(), logits.cpu())
    measures = metric.compute()
    return {f"test/{name}": measures[name] for name in network.task.measure_names}


def work(run: Run) -> Work:
    """Return the work of a run."""
    config = run.config.classifier

    def module() -> ClassifierTraining:
        teacher = None if config.teacher is None else load_classifier(config.teacher)
        return ClassifierTraining(untrained(run), config, run.config.seed, teacher)

    return training_work(run, config, module)


def untrained(run: Run) -> Classifier:
    """Return the classifier of a run's configuration, without training it."""
    config = run.config.classifier
    if config.name == _CHECKPOINT:
        return load_classifier(str(config.path))
    return network_description(run, config).build()


def pixel_statistics(run: Run) -> dict[str, list[float]]:
    """Return ``mean`` and ``std``, configured, stated by the model's library, or else those of the training images."""
    known = known_pixels(run.config.classifier)
    if known.keys() != {"mean", "std"}:
        mean, std = run.data.dataset("train").pixel_statistics()
        known = {"mean": mean, "std": std} | known
    return known


def own_classes(whole: Config, data: ImageDataModule) -> list[str] | None:
    """Return the class names of a classifier that is explained as it is, or None if they are the data's.

    Args:
        whole: The whole configuration.
        data: The data set.

    Raises:
        UserError: The classifier cannot be read.
    """
    config, names = whole.classifier, None
    if config.name == _CHECKPOINT:
        if config.path is not None and not data.class_names:
            names = list(read_description(config.path, "classifier")["class_names"])
    elif config.epochs == 0 and config.name == IMPORT:
        module = own_module(_import_path(config), "classifier.path")
        names = getattr(module, "class_names", None)
        if names is None and not data.class_names and (heads := heads_of(module)):
            names = _numbers(_outputs(list(heads.values())[-1]))
    elif config.epochs == 0 and (found := stated(config)) is not None:
        if config.params.get(PRETRAINED):
            names = found.class_names
            if names is None and found.num_classes not in (0, data.num_classes):
                names = _numbers(found.num_classes)
        elif (
            found.class_names and found.num_classes != data.num_classes and _have_head(config, data, found.num_classes)
        ):
            names = found.class_names
    return None if names is None or list(names) == list(data.class_names) else [str(name) for name in names]


def _numbers(count: int) -> list[str]:
    return [str(number) for number in range(count)]


def _outputs(head: nn.Module) -> int:
    return next(head.parameters()).shape[0]


def _have_head(config: ClassifierConfig, data: ImageDataModule, num_classes: int) -> bool:
    """Return whether the weights in a file have a head for ``num_classes`` classes."""
    try:
        given, params = read_state(_file(str(config.weights))), network_params(config)
    except UserError:  # `check` reports it
        return False
    pixels = {"mean": [0.5] * 3, "std": [0.5] * 3}
    with torch.device("meta"):
        network = build_classifier(config.name, params, data.image_size, num_classes, **pixels).network
    inner = bare(network)
    shapes = {name: inner.state_dict()[name].shape for name in in_heads(inner)}
    return bool(shapes) and all(name in given and given[name].shape == shape for name, shape in shapes.items())


def _import_path(config: ClassifierConfig) -> str:
    if config.path is None:
        raise UserError("classifier.path: missing; classifier=import needs classifier.path=package.module:factory")
    return config.path


def _check_head(config: ClassifierConfig, weights: str, replaced: bool) -> None:
    if replaced and config.epochs == 0:
        raise UserError(
            f"classifier.epochs=0: {weights} was trained on other classes, so its head is new and needs training; set "
            "classifier.epochs to at least 1"
        )


def _encoder(folder: Path) -> Classifier:
    """Return the network that a pretraining has made, which has no head."""
    return load_model(folder, EncoderSpec, lambda spec: spec.network.build())


def _check_folder(run: Run, key: str, path: str) -> None:
    data, given = run.data, read_spec(path, ClassifierSpec)
    size, names = given.network.image_size, given.class_names
    height, width = size
    if size != list(data.image_size):
        raise UserError(
            f"classifier.{key}={path}: is for images of {height}×{width}, and those of the data have "
            f"{data.image_size[0]}×{data.image_size[1]}; set data.params.image_size"
        )
    if (task := build_task(given.network.task, f"classifier.{key}={path}: task")).name != data.task.name:
        raise UserError(
            f"classifier.{key}={path}: is for the task {task.name}, and that of the data is {data.task.name}"
        )
    if names != data.class_names:
        raise UserError(
            f"classifier.{key}={path}: has {len(names)} classes {names}, and the data has {data.class_names}"
        )


def _file(path: str) -> Path:
    if not Path(path).is_file():
        raise UserError(
            f"classifier.weights={path}: no such file; it must be a safetensors file or a PyTorch state dict"
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
    classes=own_classes,
    trains=True,
    work=work,
    headline={f"test/{task.measure_names[0]}": ".4f" for task in TASKS.values()},
    warnings=_warnings,
)
