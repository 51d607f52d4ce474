"""Networks that know nothing of training, built from plain descriptions.

A description is the content of a model folder's ``config.json``: names of table entries with plain arguments, never an
import path. A network that is built from it has random weights until others are loaded.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
from fastshap_lab.components import build, lookup, name_and_params
from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import CHANNELS, Classifier
from fastshap_lab.models.explainers import EXPLAINERS, Explainer
from fastshap_lab.models.foreign import imported, own_network
from fastshap_lab.models.game import ModelGame
from fastshap_lab.models.hugging_face import Transformers, transformers_model
from fastshap_lab.models.libraries import Library
from fastshap_lab.models.mae import MaskedAutoencoder
from fastshap_lab.models.maskings import MASKINGS, build_masking
from fastshap_lab.models.resnet import resnet
from fastshap_lab.models.surrogate import Surrogate
from fastshap_lab.models.swin import swin
from fastshap_lab.models.tasks import TASKS, Task, build_task
from fastshap_lab.models.vision import Torchvision, torchvision_model
from fastshap_lab.models.vit import vit
from fastshap_lab.models.zoo import Timm, timm_model
from fastshap_lab.shapley.players import PlayerGrid

__all__ = [
    "CLASSIFIERS",
    "IMPORT",
    "LIBRARIES",
    "PRETRAININGS",
    "TASKS",
    "Classifier",
    "Explainer",
    "MaskedAutoencoder",
    "ModelGame",
    "Surrogate",
    "Task",
    "build_classifier",
    "build_explainer",
    "build_surrogate",
    "build_task",
    "takes_backbone",
]

IMPORT = "import"
"""The entry for a network of the user's own code, which no description can build by itself."""

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {
    "resnet": resnet,
    "vit": vit,
    "swin": swin,
    "timm": timm_model,
    "torchvision": torchvision_model,
    "transformers": transformers_model,
    IMPORT: imported,
}

LIBRARIES: dict[str, Library] = {"timm": Timm(), "torchvision": Torchvision(), "transformers": Transformers()}
"""The entries of ``CLASSIFIERS`` that are libraries with pretrained weights."""

MAX_SIDE = 2048
"""Largest height or width of a network's images in pixels: the cost of building some networks grows with it."""

PRETRAININGS: dict[str, type[MaskedAutoencoder]] = {"mae": MaskedAutoencoder}


def build_classifier(
    name: str,
    params: Mapping[str, Any],
    image_size: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    extra_channels: int = 0,
    group: str = "classifier",
    module: nn.Module | None = None,
    task: str | Mapping[str, Any] | None = None,
) -> Classifier:
    """Return a classifier of RGB images with random weights.

    Args:
        name: Entry of ``CLASSIFIERS``.
        params: Arguments of the entry.
        image_size: Height and width in pixels.
        num_classes: Number of classes K.
        mean: Mean colour in [0, 1], one number per channel of the network: 1, 3 or 4 (see ``classifier.as_channels``).
        std: Standard deviation of each channel.
        extra_channels: Number of input channels of the network beside these.
        group: Group of the configuration that errors name.
        module: The user's own network, where the description names one's own code.
        task: Entry of ``TASKS`` that the outputs belong to, or ``{name, params}``; ``multiclass`` if None.

    Raises:
        UserError: An argument is wrong, or the network cannot be built from its arguments.
    """
    height, width = _checked_size(image_size)
    if len(mean) not in CHANNELS or len(std) != len(mean):
        raise UserError(
            f"{group}.mean={list(mean)}, {group}.std={list(std)}: each must have one number per channel of the "
            "network: one (grey), three (RGB) or four (with alpha)"
        )
    if extra_channels and name == IMPORT:
        raise UserError(f"{group}: your own network has no channel for the mask; choose another {group}.masking")
    if module is not None and name != IMPORT:
        raise UserError(f"module=…: the network is an entry of the package, {name}, and built here; leave module out")
    if module is not None:
        network: nn.Module = own_network(module)
    else:
        given = {"num_classes": num_classes, "image_size": (height, width), "in_chans": len(mean) + extra_channels}
        network = build(CLASSIFIERS, group, name, params, **given)
    learned = build_task(task)
    learned.prepare(network, num_classes)
    return Classifier(network, mean, std, (height, width), num_classes, learned)


def build_surrogate(
    classifier: Mapping[str, Any],
    masking: str | Mapping[str, Any],
    grid: Sequence[int],
    module: nn.Module | None = None,
) -> Surrogate:
    """Return a surrogate with random weights.

    Args:
        classifier: Description of the network inside, without the channels that the masking adds.
        masking: Entry of ``MASKINGS``, or ``{name, params}``.
        grid: Rows and columns of players.
        module: The user's own network, where the description names one's own code.
    """
    kind = lookup(MASKINGS, "surrogate.masking", name_and_params(masking, "surrogate.masking")[0])
    inner = build_classifier(**classifier, extra_channels=kind.extra_channels, group="surrogate", module=module)
    rows, columns = grid
    players = PlayerGrid(inner.image_size, (rows, columns))
    return Surrogate(inner, build_masking(masking, inner, players), players)


def build_explainer(
    name: str,
    params: Mapping[str, Any],
    image_size: Sequence[int],
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
    grid: Sequence[int],
    task: str | Mapping[str, Any] | None = None,
) -> Explainer:
    """Return an explainer network with random weights.

    Args:
        name: Entry of ``EXPLAINERS``.
        params: Arguments of the entry; ``backbone``, where it takes one, is ``{name, params}`` of ``CLASSIFIERS``.
        image_size: Height and width in pixels.
        num_classes: Number of classes K.
        mean: Mean colour of the training images in [0, 1], one number per channel.
        std: Standard deviation of each channel.
        grid: Rows and columns of players.
        task: Entry of ``TASKS``, or ``{name, params}``; ``multiclass`` if None.
    """
    (height, width), (rows, columns) = _checked_size(image_size), grid
    players = PlayerGrid((height, width), (rows, columns))
    given: dict[str, Any] = {"grid": players, "num_classes": num_classes, "mean": mean, "std": std}
    params = dict(params)
    if takes_backbone(name):
        size: dict[str, Any] = {"num_classes": num_classes, "image_size": (height, width), "in_chans": len(mean)}
        where, backbone = "explainer.params.backbone", params.pop("backbone")
        chosen, chosen_params = name_and_params(backbone, where)
        given["backbone"] = build(CLASSIFIERS, where, chosen, chosen_params, **size)
    explainer = build(EXPLAINERS, "explainer", name, params, **given)
    learned = build_task(task)
    learned.check_size(num_classes)
    explainer.unit = learned.unit()
    return explainer


def _checked_size(image_size: Sequence[int]) -> tuple[int, int]:
    height, width = image_size
    if not all(isinstance(side, int) and 1 <= side <= MAX_SIDE for side in (height, width)):
        raise UserError(f"image_size={[height, width]}: height and width must be whole numbers from 1 to {MAX_SIDE}")
    return height, width


def takes_backbone(name: str) -> bool:
    """Return whether an entry of ``EXPLAINERS`` is built around the network of a classifier."""
    return "backbone" in inspect.signature(lookup(EXPLAINERS, "explainer.name", name)).parameters
