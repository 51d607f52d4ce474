"""What declarations of stages share: their settings, their networks, their trainings."""

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

# The last checkpoint holds the weights and what an optimizer has of them, the best one and the model the weights alone.
_COPIES = 5
_FORWARD = 1 / 3  # of a training step's time
_SECONDS, _TIMES = 0.7, 10  # at most, of a measurement


def settings_of(config: Config, settings: dict[str, Any], digest: str | None = None) -> dict[str, Any]:
    """Return a stage's settings with what counts for every stage: the seed, and components' code.

    Args:
        config: The whole configuration.
        settings: The stage's own.
        digest: Of the data, where the stage depends on them beside its parents; with it counts their code.
    """
    given = settings if digest is None else settings | {"data": digest}
    return with_sources(given, *([] if digest is None else [config.data.name])) | {"seed": config.seed}


def fit_run(run: Run, module: Training, settings: TrainingConfig, key: str, images: ImageSplit | None = None) -> None:
    """Fit a module to a run's images, going on from the run's last checkpoint if there is one.

    Args:
        run: What is trained.
        module: How.
        settings: How long, and in which batches.
        key: Of the settings in the configuration, for errors.
        images: To train on, as they are; the data's training images, augmented, where none are given.
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
    """Return what builds a network for the run's images: its table entry, and what follows from the data.

    Args:
        run: Gives the data.
        config: Table entry and arguments.
        pixels: Holds ``mean`` and ``std`` to normalize with, and perhaps ``task``: the classifier's own, which those
            that learn from it share. None is for networks that are only built to see whether they can be: then it is
            the number of channels that counts.

    Raises:
        UserError: A library does not know the model.
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
    """Return the arguments of a network's entry in ``CLASSIFIERS`` or ``EXPLAINERS``, a library's model in full."""
    if isinstance(config, ClassifierConfig) and config.name == IMPORT:
        return {"path": config.path}
    if isinstance(config, ExplainerConfig) or config.name not in LIBRARIES:
        return dict(config.params)
    if PRETRAINED in config.params and not isinstance(config, ClassifierConfig):
        raise UserError(
            "surrogate.params.pretrained: a surrogate starts from its classifier's weights, surrogate.from_classifier"
        )
    return LIBRARIES[config.name].arguments(config.params)


def stated(config: ClassifierConfig) -> Stated | None:
    """Return what a library says of the weights that a classifier starts from; None where there is nothing to say.

    Raises:
        UserError: Its weights are wanted, and it has none.
    """
    if config.name not in LIBRARIES:
        return None
    if config.params.get(PRETRAINED):
        return LIBRARIES[config.name].stated(config.params)
    if config.weights is None:
        return None
    try:
        return LIBRARIES[config.name].stated(config.params)
    except UserError:  # it has no weights for this model, or there is no such model, which is said elsewhere
        return None


def known_pixels(config: ClassifierConfig) -> dict[str, list[float]]:
    """Return of ``mean`` and ``std`` what is configured or, if neither is, what the model's library or author says."""
    configured = {key: value for key, value in (("mean", config.mean), ("std", config.std)) if value is not None}
    if configured:
        return configured
    if config.name == IMPORT and config.path is not None:
        return stated_by(handed_over(config.path))
    found = stated(config)
    return {} if found is None else {"mean": found.mean, "std": found.std}


def check_images(network: nn.Module, stage: str, answer: tuple[int, ...], *inputs: Tensor) -> None:
    """Raise a ``UserError`` where a network cannot take the data's images, or answers with something else than it must.

    On the meta device this costs nothing.

    Args:
        network: Takes the inputs.
        stage: Of the network, or its key in the configuration, for errors.
        answer: Shape of its answer.
        inputs: Images (B, 3, H, W), and what else it takes.
    """
    height, width = inputs[0].shape[-2:]
    try:
        with torch.no_grad():
            found = network.eval()(*inputs)
    except (RuntimeError, AssertionError, ValueError, TypeError, AttributeError, IndexError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{stage}: its network does not take images of {height}×{width}: {reason}") from error
    what = f"of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"of type {type(found).__name__}"
    if what != f"of shape {answer}":
        raise UserError(
            f"{stage}: its network's answer to {len(inputs[0])} images is {what}: must be a tensor of shape {answer}"
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
    """Return the work of a stage that trains.

    Args:
        run: To be made.
        settings: How long, and in which batches.
        module: Returns the training, of networks with any weights, to time steps of.
        images: Returns some to train on as they are; random ones, augmented, by default.
        number: Of the images to train on; that of the training images by default.
        passes: Of a game, beside the training.
        game: Returns it.
        more: Returns the bytes of what the result holds beside the trained network.
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
        forward = _FORWARD * seconds / len(next(iter(loader))["image"])  # of an image
        spent = settings.epochs * (max(1, number // size) * seconds + val * forward) + test * forward
        if game is not None:
            spent += passes * seconds_of_pass(game(), run)
        weights = sum(tensor.nbytes for tensor in training.network.state_dict().values())
        return Cost(spent, weights * (_COPIES if settings.epochs else 1) + more())

    return Work(kind_of(run, "epochs") | {"trains": settings.epochs > 0}, max(settings.epochs, 1), trial)


def kind_of(run: Run, *free: str) -> dict[str, Any]:
    """Return what decides over the cost of a unit of a run's work: settings, its parents' too, images, device.

    Without what decides over what is learned alone: a sweep over learning rates is work of one kind.

    Args:
        run: To be made.
        free: Settings that decide over the number of units.
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
    """Return images of noise in the size of a run's images, with labels, on the run's device.

    Args:
        run: The run.
        number: Number of images.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (number, 3, *run.data.image_size), dtype=torch.uint8, generator=generator)
    return TensorImages(images, run.data.task.meaningless(number, run.data.num_classes)).to(run.data.device)


def seconds_of_pass(game: ModelGame, run: Run) -> float:
    """Return the duration of a pass of a game in seconds, measured for about a second.

    Args:
        game: The game.
        run: The run that plays it, whose images and batch size are taken.
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
