"""Masking that gives absent players the mean colour of their own image."""

from typing import ClassVar

from torch import Tensor

from fastshap_lab.models.maskings.pixels import PixelMasking


class Mean(PixelMasking):
    """Gives absent pixels the mean colour of their image, computed from all its pixels; fits any network.

    The null coalition still shows this colour: whatever it reveals about the class is part of the null value, not of
        the
    players' values.
    """

    null_ignores_image: ClassVar[bool] = False

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels, and images of one colour."""
        return pixels, pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels)
