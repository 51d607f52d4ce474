"""Masking that gives absent players the mean colour of the data, and shows the mask in an additional channel."""

from typing import ClassVar

import torch
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Classifier, Model
from fastshap_lab.models.maskings.pixels import PixelMasking
from fastshap_lab.shapley.players import Players


class MaskChannel(PixelMasking):
    """Sets absent pixels to zero after normalization, and appends the mask as a channel (1 = present).

    It fits any network that is built with this additional channel.

    Reference: the CNN surrogates of Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436.

    Args:
        classifier: A ``Classifier`` whose network has the additional channel.
        players: Players of the images.

    Raises:
        UserError: The model is no ``Classifier``, so that its network has no channel for the mask.
    """

    extra_channels: ClassVar[int] = 1

    def __init__(self, classifier: Model, players: Players) -> None:
        super().__init__(classifier, players)
        if not isinstance(classifier, Classifier):
            raise UserError(
                "mask_channel: only a surrogate's network has a channel for the mask; choose another masking"
            )

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels with a channel of ones, and None: absent pixels are zero in every channel."""
        return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1), None
