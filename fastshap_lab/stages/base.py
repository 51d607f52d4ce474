"""Functions that several stages share: settings, descriptions of networks, trainings, and estimates of their cost."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from fastshap_lab.config import ClassifierConfig, ComponentConfig, Config, ExplainerConfig, TrainingConfig
from fastshap_lab.data.augment import Augment
from fastshap_lab.data.base import SPLITS
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.data.splits import ImageSplit, TensorImages
from fastshap_lab.errors import UserError
from fastshap_lab.models import IMPORT, LIBRARIES, ModelGame
from fastshap_lab.models.foreign import handed_over, stated_by
from fastshap_lab.models.libraries import PRETRAINED, Stated
from fastshap_lab.models.specs import NetworkSpec
from fastshap_lab.models.tasks import described
from fastshap_lab.runs.costs import Cost, Work
from fastshap_lab.runs.run import Run
from fastshap_lab.stages.sources import with_sources
from fastshap_lab.training.rehearsal import seconds_of_step
from fastshap_lab.training.training import Loaders, Training, fit

# Sizes of a run in units of its weights: the last checkpoint has 3 (weights and the optimizer's two moments), the best
# checkpoint and the model have one each.
_COPIES = 5
_FORWARD = 1 / 3  # time of a forward pass as a fraction of a training step
_SECONDS, _TIMES = 0.7, 10  # limits of a measurement: seconds, and number of repetitions


def settings_of(config: Config, settings: dict[str, Any], digest: str | None = None) -> dict[str, Any]:
    """Return a stage's settings together with the seed and the code digests of components.

    Args:
        config: The whole configuration.
        settings: Settings of the stage.
        digest: Digest of the data, if the stage depends on them other than through its parents; the code of the data
            set is then included, too.
    """
    given = settings if digest is None else settings | {"data": digest}
    return with_sources(given, *([] if digest is None else [config.data.name])) | {"seed": config.seed}


def fit_run(run: Run, module: Training, settings: TrainingConfig, key: str, images: ImageSplit | None = None) -> None:
    """Fit a training module to a run's images, from the run's last checkpoint if there is one.

    Args:
        run: Run whose model is trained.
        module: Training module, which contains the network and the loss.
        settings: Number of epochs, batch size, optimizer and augmentation.
        key: Key of the settings in the configuration, for error lines.
        images: Training images, which are not augmented. None: the data's training images, augmented.
    """
    seed = run.config.seed
    if images is None:
        augment = Augment(**asdict(settings.augment))
        batches = run.data.loader("train", settings.batch_size, augment=augment, seed=seed)
    else:
        batches = ImageLoader(images, settings.batch_size, training=True, seed=seed)
    loaders = Loaders(batches, run.data.loader("val", settings.batch_size))
    title, trainer = run.stage.name, run.config.trainer
    fit(module, loaders, settings, run.folder, trainer, title=title, key=key, tracker=run.tracker)


def network_description(
    run: Run,
    config: ComponentConfig,
    pixels: Mapping[str, Any] | None = None,
) -> NetworkSpec:
    """Return the description that a network for the run's images is built from.

    Args:
        run: Run, whose data determine image size, classes and task.
        config: Name and arguments of the network.
        pixels: ``mean`` and ``std`` of the pixel normalization, and perhaps ``task``; surrogate and explainer take
            those of the classifier. None is for networks that are only built as a check, when any values with the right
            number of channels do.

    Raises:
        UserError: The model library does not know the model.
    """
    if pixels is None:
        channels = len(known_pixels(run.config.classifier).get("mean", ["R", "G", "B"]))
        pixels = {"mean": [0.5] * channels, "std": [0.5] * channels}
    return NetworkSpec(
        name=config.name,
        params=network_params(config),
        image_size=list(run.data.image_size),
        num_classes=run.data.num_classes,
        mean=list(pixels["mean"]),
        std=list(pixels["std"]),
        task=pixels["task"] if "task" in pixels else described(run.data.task).get("task"),
    )


def network_params(config: ComponentConfig) -> dict[str, Any]:
    """Return the arguments of a network in ``CLASSIFIERS`` or ``EXPLAINERS``.

    The arguments of a model from a library are completed, so that its description does not depend on the library's
    defaults.

    Raises:
        UserError: ``pretrained`` is set for a surrogate, or the library does not know the model.
    """
    if isinstance(config, ClassifierConfig) and config.name == IMPORT:
        return {"path": config.path}
    if isinstance(config, ExplainerConfig) or config.name not in LIBRARIES:
        return dict(config.params)
    if PRETRAINED in config.params and not isinstance(config, ClassifierConfig):
        raise UserError(
            "surrogate.params.pretrained: only a classifier can be pretrained; surrogate.from_classifier=true starts "
            "the surrogate from its classifier's weights"
        )
    return LIBRARIES[config.name].arguments(config.params)


def stated(config: ClassifierConfig) -> Stated | None:
    """Return what a library states about the weights that a classifier starts from, or None if it states nothing.

    Raises:
        UserError: ``pretrained`` is set, and the library has no weights for the model.
    """
    if config.name not in LIBRARIES:
        return None
    if config.params.get(PRETRAINED):
        return LIBRARIES[config.name].stated(config.params)
    if config.weights is None:
        return None
    try:
        return LIBRARIES[config.name].stated(config.params)
    except UserError:  # there are no such weights, or no such model, which `network_description` reports
        return None


def known_pixels(config: ClassifierConfig) -> dict[str, list[float]]:
    """Return ``mean`` and ``std`` as configured or, if neither is, as stated by the model's library or code.

    A value that is not known is missing in the result.
    """
    configured = {key: value for key, value in (("mean", config.mean), ("std", config.std)) if value is not None}
    if configured:
        return configured
    if config.name == IMPORT and config.path is not None:
        return stated_by(handed_over(config.path))
    found = stated(config)
    return {} if found is None else {"mean": found.mean, "std": found.std}


def check_images(network: nn.Module, stage: str, answer: tuple[int, ...], *inputs: Tensor) -> None:
    """Raise a ``UserError`` if a network does not accept the data's images, or its output has the wrong shape.

    On the meta device this takes almost no time and memory.

    Args:
        network: Network to call.
        stage: Name of the stage or key in the configuration, for error lines.
        answer: Shape that the output must have.
        inputs: Arguments of the network: images (B, 3, H, W), then its other inputs.
    """
    height, width = inputs[0].shape[-2:]
    try:
        with torch.no_grad():
            found = network.eval()(*inputs)
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{stage}: its network does not accept images of {height}×{width} pixels: {reason}") from error
    what = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"of type {type(found).__name__}"
    if what != f"of shape {answer}":
        raise UserError(
            f"{stage}: its network's output for {len(inputs[0])} images is {what}, must be a tensor of shape {answer}"
        )


def training_work(
    run: Run,
    settings: TrainingConfig,
    module: Callable[[], Training],
    *,
    images: Callable[[], ImageSplit] | None = None,
    number: int | None = None,
    passes: int = 0,
    game: Callable[[], ModelGame] | None = None,
    more: Callable[[], int] = lambda: 0,
) -> Work:
    """Return the work of a stage that trains a network.

    Args:
        run: Run to estimate.
        settings: Number of epochs, batch size, optimizer and augmentation.
        module: Function that returns the training module, with any weights, to measure the time of its steps.
        images: Function that returns images for these steps, which are not augmented. None: random images, augmented.
        number: Number of training images. None: that of the data.
        passes: Number of evaluations of the game, beside the training; one is one image under one coalition.
        game: Function that returns the game.
        more: Function that returns the bytes of the result beside the trained network.
    """
    train, val, test = (run.data.count(split) for split in SPLITS)
    number = number or train

    def trial() -> Cost:
        training, size = module(), settings.batch_size
        if images is None:
            augment = Augment(**asdict(settings.augment))
            loader = ImageLoader(random_images(run, size), size, training=True, augment=augment)
        else:
            loader = ImageLoader(images(), size, training=True)
        seconds = seconds_of_step(training, loader, settings, run.config.trainer)
        forward = _FORWARD * seconds / len(next(iter(loader))["image"])  # seconds for an image
        spent = settings.epochs * (max(1, number // size) * seconds + val * forward) + test * forward
        if game is not None:
            spent += passes * seconds_of_pass(game(), run)
        weights = sum(tensor.nbytes for tensor in training.network.state_dict().values())
        return Cost(spent, weights * (_COPIES if settings.epochs else 1) + more())

    return Work(kind_of(run, "epochs") | {"trains": settings.epochs > 0}, max(settings.epochs, 1), trial)


def kind_of(run: Run, *free: str) -> dict[str, Any]:
    """Return what determines the cost of a unit of a run's work: settings, those of its parents, images and device.

    Settings that only change what is learned are left out, so that a sweep over learning rates is work of one kind.

    Args:
        run: Run to estimate.
        free: Names of settings that determine the number of units, and are left out.
    """
    data = run.data
    return {
        **_costly(run, *free),
        "images": [run.config.data.name, *data.image_size, *(data.count(split) for split in SPLITS)],
        "device": [data.device.type, run.config.trainer.max_batch],
    }


def _costly(run: Run, *free: str) -> dict[str, Any]:
    left_out = {"seed", "data", "sources", "optim", "weights", "mean", "std", *free}

    def plain(value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return {name: plain(part) for name, part in value.items() if name not in left_out}

    parents = {role: _costly(parent) for role, parent in run.parents.items()}
    return {"stage": run.stage.name, "settings": plain(run.settings), "parents": parents}


def random_images(run: Run, number: int) -> TensorImages:
    """Return random images of the size of a run's data, with labels, on the run's device.

    Args:
        run: Run that the images are for.
        number: Number of images.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (number, 3, *run.data.image_size), dtype=torch.uint8, generator=generator)
    return TensorImages(images, run.data.task.meaningless(number, run.data.num_classes)).to(run.data.device)


def seconds_of_pass(game: ModelGame, run: Run) -> float:
    """Return the seconds for the value of one coalition, measured for less than a second on growing batches.

    Args:
        game: Game to measure, which is moved to the run's device.
        run: Run that the game is for.
    """
    game.to(run.data.device)
    seconds, rows = math.inf, 8
    end = time.perf_counter() + _SECONDS
    for _ in range(_TIMES):
        image = random_images(run, max(1, rows // 16)).images.float() / 255
        sizes = torch.rand(len(image), min(rows, 16), 1, device=image.device)
        coalitions = torch.rand(*sizes.shape[:2], game.num_players, device=image.device) < sizes
        start = time.perf_counter()
        game.values(image, coalitions).cpu()
        took = time.perf_counter() - start
        seconds = min(seconds, took / rows)
        if time.perf_counter() > end:
            break
        rows = min(2 * rows, run.config.trainer.max_batch) if 4 * took < _SECONDS else rows
    return seconds
