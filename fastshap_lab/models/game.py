"""The game that a model plays when players are absent."""

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
    """The value function of a model and a masking: its answers after a link, without gradients.

    No module on purpose: a training that holds a game neither trains it nor saves it with its checkpoints. Nothing is
    copied. The model answers in the mode it is in, and must not change while the game is in use: a shared null value
    is asked for once.

    Args:
        classifier: Takes images to logits: a surrogate's classifier, or any module.
        masking: Shows it that players are absent. Maskings of pixels serve any classifier.
        link: Entry of ``shapley.game.LINKS``: the space the values live in.
        max_batch: Rows of a pass, one per image and coalition. Changes values by rounding only.

    Raises:
        UserError: The link is unknown, or ``max_batch`` is below 1.
    """

    def __init__(self, classifier: Model, masking: Masking, link: str = "softmax", max_batch: int = 512) -> None:
        check_max_batch(max_batch)
        self.classifier, self.masking, self.max_batch = classifier, masking, max_batch
        self.link, self.num_players = lookup(LINKS, "link", link), masking.players.num_players
        self._shared_null: Tensor | None = None

    def to(self, device: torch.device | str) -> "ModelGame":
        """Move model and masking to a device."""
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
        """Return the logits with every player and with none, where these ignore the image in one row."""
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
        # Cloned outside of inference mode, the caller's too (a validation may be the first to ask for the null value,
        # which is kept): an ordinary tensor, which a loss may keep for its backward pass.
        with torch.inference_mode(False):
            return values.clone()

    def grand(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return the value when every player is present."""
        return self.values(image, self._all(image, True)).squeeze(1)

    def null(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "#B K"]:
        """Return the value when no player is present; one row, asked for once, where it ignores the image."""
        if not self.masking.null_ignores_image:
            return self.values(image, self._all(image, False)).squeeze(1)
        if self._shared_null is None:
            self._shared_null = self.values(image[:1], self._all(image[:1], False)).squeeze(1)
        return self._shared_null

    def __call__(
        self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "B K"], Float[Tensor, "#B K"]]:
        """Return values, grand and null from one batch of passes."""
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
            change: Takes values (B, M, K) to those of the other game.
        """
        other, link = copy(self), self.link
        other.link, other._shared_null = lambda logits: change(link(logits)), None
        return other

    def _all(self, image: Tensor, present: bool) -> Tensor:
        return torch.full((len(image), 1, self.num_players), present, device=image.device)
