"""The game of a model: its value function when players are absent."""

from collections.abc import Callable
from copy import copy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fastshap_lab.components import lookup
from fastshap_lab.errors import check_max_batch
from fastshap_lab.models.classifier import Model
from fastshap_lab.models.maskings import Masking
from fastshap_lab.shapley.game import LINKS


class ModelGame:
    """The value function of a model under a masking: the model's outputs after a link, without gradients.

    It is deliberately no module: a training that holds a game neither trains it nor saves it in its checkpoints.
        Nothing
    is copied. The model runs in the mode that it is in, and must not change while the game is in use, since a null
    value that all images share is computed once.

    Args:
        classifier: Model that maps images to logits: a surrogate's classifier, or any module.
        masking: Masking that removes absent players. Maskings of pixels serve any classifier.
        link: Entry of ``shapley.game.LINKS``, the space of the values.
        max_batch: Largest number of rows of a pass, one per image and coalition. It changes values by rounding only.

    Raises:
        UserError: The link is unknown, or ``max_batch`` is below 1.
    """

    def __init__(self, classifier: Model, masking: Masking, link: str = "softmax", max_batch: int = 512) -> None:
        check_max_batch(max_batch)
        self.classifier, self.masking, self.max_batch = classifier, masking, max_batch
        self.link, self.num_players = lookup(LINKS, "link", link), masking.players.num_players
        self._shared_null: Tensor | None = None

    def to(self, device: torch.device | str) -> "ModelGame":
        """Move the model and the masking to a device, and return the game."""
        for part in (self.classifier, self.masking):
            if isinstance(part, nn.Module):
                part.to(device)
        self._shared_null = None
        return self

    def logits(self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        """Return the model's outputs (B, M, K) before the link, with gradients where these are enabled.

        Args:
            image: Images (B, C, H, W) in [0, 1].
            coalitions: Coalitions (B, M, P), True where a player is present.
        """
        return self.masking(self.classifier, image, coalitions, self.max_batch)

    def extremes(self, image: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B K"], Float[Tensor, "#B K"]]:
        """Return the logits of the grand and the null coalition; the latter in one row if it ignores the image."""
        alike = self.masking.null_ignores_image
        nobody = image[:1] if alike else image
        full, empty = (
            self.logits(shown, self._all(shown, present)).squeeze(1)
            for shown, present in ((image, True), (nobody, False))
        )
        return full, empty

    def values(self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        """Return the value (B, M, K) of each coalition: the model's output after the link.

        Args:
            image: Images (B, C, H, W) in [0, 1].
            coalitions: Coalitions (B, M, P), True where a player is present.
        """
        with torch.inference_mode():
            logits = self.logits(image, coalitions)
            values = self.link(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        # The clone is made outside of inference mode, also the caller's: it is an ordinary tensor, which a loss may
        # save for its backward pass. A null value that was first computed in a validation is used in training later.
        with torch.inference_mode(False):
            return values.clone()

    def grand(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return the value of the grand coalition."""
        return self.values(image, self._all(image, True)).squeeze(1)

    def null(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "#B K"]:
        """Return the value of the null coalition; one row, computed once, if it ignores the image."""
        if not self.masking.null_ignores_image:
            return self.values(image, self._all(image, False)).squeeze(1)
        if self._shared_null is None:
            self._shared_null = self.values(image[:1], self._all(image[:1], False)).squeeze(1)
        return self._shared_null

    def __call__(
        self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "B K"], Float[Tensor, "#B K"]]:
        """Return the values of the coalitions, of the grand and of the null coalition, from one batch of passes."""
        parts = [coalitions, self._all(image, True)]
        if not self.masking.null_ignores_image:
            parts.append(self._all(image, False))
        values = self.values(image, torch.cat(parts, dim=1))
        num_coalitions = coalitions.shape[1]
        null = self.null(image) if self.masking.null_ignores_image else values[:, -1]
        return values[:, :num_coalitions], values[:, num_coalitions], null

    def in_units(self, change: Callable[[Tensor], Tensor]) -> "ModelGame":
        """Return the same game with its values in other units.

        Args:
            change: Function that maps values (B, M, K) to those in the other units.
        """
        other, link = copy(self), self.link
        other.link, other._shared_null = lambda logits: change(link(logits)), None
        return other

    def _all(self, image: Tensor, present: bool) -> Tensor:
        return torch.full((len(image), 1, self.num_players), present, device=image.device)
