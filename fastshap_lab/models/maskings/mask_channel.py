"""Absent players take the mean colour of the data, and a channel of its own says where."""

from typing import ClassVar

import torch
from torch import Tensor

from fastshap_lab.models.maskings.pixels import PixelMasking


class MaskChannel(PixelMasking):
    """Zero absent pixels in normalized space and append the mask as a fourth channel (1 = present); any network.

    Reference: the CNN surrogates of Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436.
    """

    extra_channels: ClassVar[int] = 1

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels with a channel of ones, and no others: absent pixels are zero in every channel."""
        return torch.cat([pixels, torch.ones_like(pixels[:, :1])], dim=1), None
