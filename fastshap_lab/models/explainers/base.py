"""The contract of an explainer."""

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
    """A network that predicts raw values of every player for every class: (B, 3, H, W) -> (B, P, K).

    Args:
        grid: The players.
        num_classes: K.
        mean: Mean colour of the training images in [0, 1], a number for each channel, as a ``Classifier`` has them.
        std: Standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor
    unit: Tensor | None
    """What the network's outputs are multiplied by (K,): the spread of a regression's targets."""

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
        """Take what the surrogate's network has learned, where the explainer has a place for it."""


def shrink_init(head: L, scale: float = 0.05) -> L:
    """Scale a fresh output layer down.

    Shapley values are small numbers, a share of one probability among P players. A head with the usual start is far
    above them, and a training spends itself on coming down: R² 0.64 against 0.79 on the digits, all else equal.

    Args:
        head: Output layer, scaled in place.
        scale: Factor for weights and bias.
    """
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(scale)
    return head
