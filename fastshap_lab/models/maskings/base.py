"""The contract of a masking: how a model is shown that players are absent."""

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from fastshap_lab.models.classifier import Classifier
from fastshap_lab.shapley.grid import PlayerGrid


class Masking(nn.Module, ABC):
    """Run a classifier on images of which some players are absent.

    A subclass checks in its constructor that it fits the classifier, before anything is trained. What it learns (a
    token, a feature) are parameters of its own.
    """

    extra_channels: ClassVar[int] = 0
    """Input channels that the classifier's network needs beyond RGB."""

    null_ignores_image: ClassVar[bool] = True
    """Whether the answer to the null coalition is the same for every image."""

    grid: PlayerGrid

    def __init__(self, classifier: Classifier, grid: PlayerGrid) -> None:
        super().__init__()
        self.grid = grid

    @abstractmethod
    def forward(self, classifier: Classifier, image: Tensor, coalition: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, 3, H, W), each with one coalition (N, P)."""
