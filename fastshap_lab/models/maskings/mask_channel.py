"""Absent players take the mean colour of the data, and a channel of its own says where."""

from typing import ClassVar

import torch
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Classifier, Model
from fastshap_lab.models.maskings.pixels import PixelMasking
from fastshap_lab.shapley.players import Players


class MaskChannel(PixelMasking):
    """Zero absent pixels in normalized space and append the mask as a fourth channel (1 = present); any network.

    Reference: the CNN surrogates of Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436.

    Raises:
        UserError: The model is no ``Classifier``, whose network may have been built with a fourth channel.
    """

    extra_channels: ClassVar[int] = 1

    def __init__(self, classifier: Model, players: Players) -> None:
        super().__init__(classifier, players)
        if not isinstance(classifier, Classifier):
            raise UserError(
                "mask_channel: only a surrogate's network has a channel for the mask; choose another masking"
            )

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels with a channel of ones, and no others: absent pixels are zero in every channel."""
        return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1), None
