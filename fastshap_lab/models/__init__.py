"""Networks that know nothing of training, built from plain descriptions.

A description is what a model folder's ``config.json`` holds: table names with plain arguments, never an import path.
What is built is random until weights are loaded.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from fastshap_lab import _timm  # noqa: F401 - before timm, torchvision and Lightning
from fastshap_lab.components import build, lookup, name_and_params
from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.explainers import EXPLAINERS, Explainer
from fastshap_lab.models.game import ModelGame
from fastshap_lab.models.mae import MaskedAutoencoder
from fastshap_lab.models.maskings import MASKINGS, build_masking
from fastshap_lab.models.resnet import resnet
from fastshap_lab.models.surrogate import Surrogate
from fastshap_lab.models.swin import swin
from fastshap_lab.models.tasks import TASKS, Task, build_task
from fastshap_lab.models.vit import vit
from fastshap_lab.models.zoo import timm_model
from fastshap_lab.shapley.players import PlayerGrid

__all__ = [
    "CLASSIFIERS",
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

CLASSIFIERS: dict[str, Callable[..., nn.Module]] = {"resnet": resnet, "vit": vit, "swin": swin, "timm": timm_model}
MAX_SIDE = 2048
"""Of a network's images, in pixels: what a network of them takes to build grows with it, whatever its weights."""

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
    task: str | Mapping[str, Any] | None = None,
) -> Classifier:
    """Return a classifier of RGB images; ``group`` is the configuration group that errors name."""
    height, width = _checked_size(image_size)
    given = {"num_classes": num_classes, "image_size": (height, width), "in_chans": len(mean) + extra_channels}
    network, learned = build(CLASSIFIERS, group, name, params, **given), build_task(task)
    learned.prepare(network, num_classes)
    return Classifier(network, mean, std, (height, width), num_classes, learned)


def build_surrogate(classifier: Mapping[str, Any], masking: str | Mapping[str, Any], grid: Sequence[int]) -> Surrogate:
    """Return a surrogate; ``classifier`` describes the network inside, without the masking's channels."""
    kind = lookup(MASKINGS, "surrogate.masking", name_and_params(masking, "surrogate.masking")[0])
    inner = build_classifier(**classifier, extra_channels=kind.extra_channels, group="surrogate")
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
    """Return an explainer network; ``params.backbone``, if it takes one, is ``{name, params}`` of ``CLASSIFIERS``."""
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
    """Return whether an explainer is built around the network of a classifier."""
    return "backbone" in inspect.signature(lookup(EXPLAINERS, "explainer.name", name)).parameters
