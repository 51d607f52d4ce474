"""Masking that blurs absent players."""

from typing import ClassVar

import torch
from torch import Tensor

from fastshap_lab.components import Positive
from fastshap_lab.models.classifier import Model
from fastshap_lab.models.maskings.pixels import PixelMasking
from fastshap_lab.shapley.players import Players


class Blur(PixelMasking):
    """Replaces absent pixels by those of a blurred copy of the image; fits any network.

    The blur is Gaussian; near the border it averages over the pixels that exist. The null coalition shows the blurred
    image: whatever that reveals about the class is part of the null value, not of the players' values.

    Reference: Fong and Vedaldi, Interpretable explanations of black boxes by meaningful perturbation, ICCV 2017,
    arXiv:1704.03296, section 4.2, on blurring as a perturbation.

    Args:
        classifier: Any model.
        players: Players of the images.
        width: Standard deviation of the Gaussian in pixels. By default it is the height of a player vertically and its
            width horizontally, so that no detail within a player is left.
    """

    null_ignores_image: ClassVar[bool] = False

    down: Tensor
    across: Tensor

    def __init__(self, classifier: Model, players: Players, width: Positive | None = None) -> None:
        super().__init__(classifier, players)
        widths = map(float, players.patch_size if width is None else (width, width))
        for name, length, sigma in zip(("down", "across"), players.image_size, widths, strict=True):
            self.register_buffer(name, _gaussian(length, sigma), persistent=False)

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels, and the blurred pixels."""
        return pixels, self.down.to(pixels) @ pixels @ self.across.to(pixels).T


def _gaussian(length: int, sigma: float) -> Tensor:
    """Return the matrix (length, length) that blurs a line of pixels; rows sum to one."""
    position = torch.arange(length, dtype=torch.float64)
    distance = position.unsqueeze(1) - position
    return torch.softmax(distance.square_().div_(-2 * sigma**2), dim=1).float()  # in place, since it may be large
