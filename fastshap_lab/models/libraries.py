"""What libraries say of the models they give away: how these want pixels, which classes they know, their weights.

Asked for by a user's own configuration alone. What comes of it is written into descriptions in full, so that to build a
network from one neither a name nor an address reaches a library.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

PRETRAINED = "pretrained"
"""The argument that asks for a library's own weights; never one of a network's description."""


@dataclass(frozen=True)
class Stated:
    """What a library says of a model with the weights that it gives away.

    Attributes:
        weights: What identifies them, for fingerprints.
        mean: Mean colour that they were trained with, a number per input channel.
        std: Standard deviation of each channel.
        num_classes: Outputs of their head, 0 if they have none.
        class_names: What these are called, or None if nobody knows.
    """

    weights: str
    mean: list[float]
    std: list[float]
    num_classes: int
    class_names: list[str] | None


class Library(ABC):
    """Models by name. ``params`` are a user's: those of the entry in ``CLASSIFIERS``, with ``model``."""

    def arguments(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of the entry in ``CLASSIFIERS``, which descriptions hold."""
        return {key: value for key, value in params.items() if key != PRETRAINED}

    @abstractmethod
    def stated(self, params: Mapping[str, Any]) -> Stated:
        """Return what the library says of a model; weights stay where they are.

        Raises:
            UserError: It has no such model, or none with weights.
        """

    @abstractmethod
    def weights(self, params: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
        """Return the library's weights, under the library's own names. They are downloaded unless they are on disk.

        Args:
            params: Arguments of the network, ``model`` among them.
            network: Network that the weights are for.

        Raises:
            UserError: They cannot be had.
        """


def fetched(what: str, error: Exception) -> str:
    """Return the error line for weights that could not be downloaded.

    Args:
        what: What was asked for.
        error: Error that the library raised.
    """
    reason = " ".join(str(error).split()) or type(error).__name__
    return (
        f"{what}: its weights cannot be had: {reason[:300]}; they come over the network, once: without one, download "
        "them elsewhere and name the file in classifier.weights"
    )
