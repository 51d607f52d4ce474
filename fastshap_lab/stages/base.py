"""What declarations of stages share: their settings, their networks, their trainings."""

from collections.abc import Mapping
from dataclasses import asdict
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from fastshap_lab.config import ComponentConfig, Config, TrainingConfig
from fastshap_lab.data.augment import Augment
from fastshap_lab.data.loader import ImageLoader
from fastshap_lab.data.splits import ImageSplit
from fastshap_lab.errors import UserError
from fastshap_lab.runs.run import Run
from fastshap_lab.stages.sources import with_sources
from fastshap_lab.training.training import Loaders, Training, fit


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
    pixels: Mapping[str, Any] = MappingProxyType({"mean": [0.5] * 3, "std": [0.5] * 3}),
) -> dict[str, Any]:
    """Return what builds a network for the run's images: its table entry, and what follows from the data.

    Args:
        run: Gives the data.
        config: Table entry and arguments.
        pixels: Holds ``mean`` and ``std`` to normalize with: the classifier's own, which those that learn from it
            share. The default is for networks that are only built to see whether they can be.
    """
    return {
        "name": config.name,
        "params": dict(config.params),
        "image_size": list(run.data.image_size),
        "num_classes": run.data.num_classes,
        "mean": list(pixels["mean"]),
        "std": list(pixels["std"]),
    }


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
