"""The base of all explainer networks."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.models.classifier import as_channels
from fastshap_lab.shapley.players import PlayerGrid

L = TypeVar("L", nn.Linear, nn.Conv2d)


class Explainer(nn.Module, ABC):
    """A network that predicts the raw values of every player for every class: (B, 3, H, W) -> (B, P, K).

    Args:
        grid: The players.
        num_classes: Number of classes K.
        mean: Mean colour of the training images in [0, 1], one number per channel, see ``Classifier``.
        std: Standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor
    unit: Tensor | None
    """Factor of the network's outputs (K,), the spread of a regression's targets; None for the other tasks."""

    def __init__(self, grid: PlayerGrid, num_classes: int, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.grid, self.num_classes = grid, num_classes
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1), persistent=False)
        self.register_buffer("unit", None, persistent=False)

    @abstractmethod
    def predict(self, pixels: Tensor) -> Tensor:
        """Return raw values (B, P, K) of normalized pixels (B, 3, H, W)."""

    def forward(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P K"]:
        """Return raw values of images in [0, 1], before normalization."""
        raw = self.predict((as_channels(image, len(self.mean)) - self.mean) / self.std)
        return raw if self.unit is None else raw * self.unit

    def start_from(self, surrogate_network: nn.Module) -> None:
        """Copy weights of the surrogate's network where the explainer has a place for them; by default nowhere."""


def shrink_init(head: L, scale: float = 0.05) -> L:
    """Scale the initial weights of an output layer down, and return the layer.

    Shapley values are small: P players share a probability. With the usual initialization the first outputs are far
    too large, and much of the training is spent on shrinking them: R² was 0.64 instead of 0.79 on the digits, all else
    equal.

    Args:
        head: Output layer, scaled in place.
        scale: Factor for weights and bias.
    """
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(scale)
    return head
