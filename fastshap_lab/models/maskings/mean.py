"""Absent players take the mean colour of their own image."""

from typing import ClassVar

from torch import Tensor

from fastshap_lab.models.maskings.pixels import PixelMasking


class Mean(PixelMasking):
    """Give absent pixels the mean colour of their image, absent pixels included; any network.

    The null coalition still shows that colour: what it says of the class is in the null value, not in the players'.
    """

    null_ignores_image: ClassVar[bool] = False

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels, and images of one colour."""
        return pixels, pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
