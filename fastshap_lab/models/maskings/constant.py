"""Absent players take a colour."""

import torch
from torch import Tensor

from fastshap_lab.components import Color
from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Classifier, Model
from fastshap_lab.models.maskings.pixels import PixelMasking
from fastshap_lab.shapley.players import Players


class Constant(PixelMasking):
    """Give absent pixels one colour; any network.

    A present patch of that colour looks as an absent one does: ``MaskChannel`` tells them apart.

    Args:
        classifier: Any.
        players: The players.
        colour: A number per channel, in units of the image; by default what is zero for the network, which is the mean
            colour of the training images for a ``Classifier``, and black for a module that takes [0, 1] as it is.
    """

    def __init__(self, classifier: Model, players: Players, colour: Color | None = None) -> None:
        super().__init__(classifier, players)
        self.colour = None if colour is None else torch.tensor(list(colour), dtype=torch.float64).view(-1, 1, 1)
        if self.colour is not None and isinstance(classifier, Classifier):
            self.colour = classifier.normalize(self.colour.to(classifier.mean))

    def layers(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the pixels, and images of the colour."""
        return pixels, None if self.colour is None else self.of_colour(pixels)

    def of_colour(self, pixels: Tensor) -> Tensor:
        """Return images of the colour, as many and as large as the pixels are.

        Raises:
            UserError: It has not one number per channel.
        """
        if self.colour is None:
            return torch.zeros_like(pixels)
        if len(self.colour) != pixels.shape[1]:
            raise UserError(f"colour: {pixels.shape[1]} numbers wanted, one per channel, not {len(self.colour)}")
        return self.colour.to(pixels).expand_as(pixels)
