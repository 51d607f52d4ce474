"""Masking that blurs absent players as the authors of RISE do."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from fastshap_lab.components import Color
from fastshap_lab.models.classifier import Model
from fastshap_lab.models.maskings.constant import Constant
from fastshap_lab.shapley.players import Players

_SIZE, _SIGMA = 11, 5.0


class RISEBlur(Constant):
    """Replaces absent pixels by those of a copy blurred as by the authors of RISE; fits any network.

    The kernel is a unit impulse in an 11×11 array filtered with σ = 5 and reflecting borders, which makes it much
    flatter than a Gaussian cut off at 11×11. The image is padded with one colour; the authors' code pads with zeros
    after normalization, which is the mean colour.

    Reference: Petsiuk et al., RISE, BMVC 2018, arXiv:1806.07421, and the code published with it.

    Args:
        classifier: Any model.
        players: Players of the images.
        colour: Colour beyond the image's border, see ``Constant``.
    """

    null_ignores_image: ClassVar[bool] = False

    down: Tensor
    across: Tensor

    def __init__(self, classifier: Model, players: Players, colour: Color | None = None) -> None:
        super().__init__(classifier, players, colour)
        for name, length in zip(("down", "across"), players.image_size, strict=True):
            self.register_buffer(name, _filter(length), persistent=False)

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels, and the blurred pixels."""
        beyond = self.of_colour(pixels)
        return pixels, self.down.to(pixels) @ (pixels - beyond) @ self.across.to(pixels).T + beyond


def _filter(length: int) -> Tensor:
    """Return the matrix (length, length) that filters a line of pixels with zeros beyond its ends."""
    from scipy.ndimage import gaussian_filter1d  # a slow import that most models do not need

    taps = torch.from_numpy(gaussian_filter1d(np.eye(1, _SIZE, _SIZE // 2)[0], _SIGMA))
    position = torch.arange(length)
    place = position - position.unsqueeze(1) + _SIZE // 2
    inside = (place >= 0) & (place < _SIZE)
    return torch.where(inside, taps.to(place.device)[place.clamp(0, _SIZE - 1)], 0)
