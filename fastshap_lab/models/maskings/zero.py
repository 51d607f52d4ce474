"""Absent players take the mean colour of the data."""

from torch import Tensor

from fastshap_lab.models.maskings.pixels import PixelMasking


class Zero(PixelMasking):
    """Zero absent pixels in normalized space, which is the mean colour of the training images; any network.

    A present patch of that colour looks as an absent one does: ``MaskChannel`` tells them apart.
    """

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels, and no others."""
        return pixels, None
