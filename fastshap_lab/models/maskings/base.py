"""The base of all maskings."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from fastshap_lab.models.classifier import Model
from fastshap_lab.shapley.players import Players


class Masking(nn.Module, ABC):
    """Runs a classifier on images from which some players are removed.

    A subclass checks in its constructor that it fits the classifier, before anything is trained. A token or feature
    that it learns is a parameter of its own. Results that do not depend on the coalition are computed once per image.

    Args:
        classifier: Model that maps images to logits.
        players: Players of the images.
    """

    extra_channels: ClassVar[int] = 0
    """Input channels that the classifier's network needs beyond RGB."""

    null_ignores_image: ClassVar[bool] = True
    """Whether the output for the null coalition is the same for every image."""

    players: Players

    def __init__(self, classifier: Model, players: Players) -> None:
        super().__init__()
        self.players = players

    @abstractmethod
    def forward(self, classifier: Model, image: Tensor, coalitions: Tensor, max_rows: int | None = None) -> Tensor:
        """Return logits (B, M, K) of images (B, 3, H, W), each under its coalitions (B, M, P).

        No pass of the network has more than ``max_rows`` rows, one per image and coalition. The number changes logits
        by rounding only.
        """


def in_chunks(
    one_pass: Callable[[Tensor, Tensor], Tensor], image: Tensor, coalitions: Tensor, max_rows: int | None
) -> Tensor:
    """Return the answers of ``one_pass`` to images under coalitions, computed in chunks.

    A chunk holds as many images as fit with all of their coalitions, or else one image with as many coalitions as fit.

    Args:
        one_pass: Function of images (b, 3, H, W) and coalitions (b, m, P) that returns answers (b, m, K).
        image: Images (B, 3, H, W) in [0, 1].
        coalitions: Coalitions (B, M, P), True where a player is present.
        max_rows: Largest number of rows b · m in a pass; no limit if None.
    """
    num_coalitions = coalitions.shape[1]
    if max_rows is None or len(image) * num_coalitions <= max_rows:
        return one_pass(image, coalitions)
    num_images = max(max_rows // num_coalitions, 1)
    return torch.cat(
        [
            torch.cat([one_pass(images, some) for some in own.split(max_rows, dim=1)], dim=1)
            for images, own in zip(image.split(num_images), coalitions.split(num_images), strict=True)
        ]
    )
