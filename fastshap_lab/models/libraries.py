"""Pretrained models of libraries: their normalization of pixels, their classes, and their weights.

A library is used only where the user's own configuration names it. The resulting arguments are written into
descriptions in full, so that no name or address from a description reaches a library.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

PRETRAINED = "pretrained"
"""Argument that requests a library's own weights; it is never part of a network's description."""


@dataclass(frozen=True)
class Stated:
    """Facts that a library states about a model with pretrained weights.

    Attributes:
        weights: Text that identifies the weights, for fingerprints.
        mean: Mean colour that the weights were trained with in [0, 1], one number per input channel.
        std: Standard deviation of each channel.
        num_classes: Number of outputs of the pretrained head, 0 if there is none.
        class_names: Names of these outputs, or None if the library does not state them.
    """

    weights: str
    mean: list[float]
    std: list[float]
    num_classes: int
    class_names: list[str] | None


class Library(ABC):
    """A library with pretrained models. ``params`` are the user's arguments of its entry, with the model's name.

    The name stands under ``model``.
    """

    def arguments(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the entry in ``CLASSIFIERS`` that a description stores."""
        return {key: value for key, value in params.items() if key != PRETRAINED}

    @abstractmethod
    def stated(self, params: Mapping[str, Any]) -> Stated:
        """Return what the library states about a model; no weights are downloaded.

        Raises:
            UserError: The library has no such model, or no weights for it.
        """

    @abstractmethod
    def weights(self, params: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
        """Return the library's weights, under the library's own names. They are downloaded unless they are on disk.

        Args:
            params: Arguments of the network, ``model`` among them.
            network: Network that the weights are for.

        Raises:
            UserError: They cannot be downloaded.
        """


def fetched(what: str, error: Exception) -> str:
    """Return the error line for weights that could not be downloaded.

    Args:
        what: Setting that names the model, for example ``classifier.params.model=resnet18``.
        error: Error that the library raised.
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{what}: its weights cannot be downloaded: {reason[:300]}; without a network, download them elsewhere and "
        "name the file in classifier.weights"
    )
