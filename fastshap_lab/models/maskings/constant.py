"""Masking that gives absent players one colour."""

import torch
from torch import Tensor

from fastshap_lab.components import Color
from fastshap_lab.errors import UserError
from fastshap_lab.models.classifier import Classifier, Model
from fastshap_lab.models.maskings.pixels import PixelMasking
from fastshap_lab.shapley.players import Players


class Constant(PixelMasking):
    """Gives absent pixels one colour; fits any network.

    A present patch of this colour looks like an absent one; ``MaskChannel`` distinguishes them.

    Args:
        classifier: Any model.
        players: Players of the images.
        colour: Colour in [0, 1], one number per channel. By default it is zero after normalization: the mean colour of
            the training images for a ``Classifier``, and black for a module that takes [0, 1] itself.
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
        """Return images of the colour alone, in the shape of the pixels.

        Raises:
            UserError: The colour does not have one number per channel.
        """
        if self.colour is None:
            return torch.zeros_like(pixels)
        if len(self.colour) != pixels.shape[1]:
            raise UserError(f"colour: has {len(self.colour)} numbers; must have {pixels.shape[1]}, one per channel")
        return self.colour.to(pixels).expand_as(pixels)
