"""The surrogate: a classifier that takes a coalition; and the game it defines."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fastshap_lab.errors import check_max_batch
from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.freezing import frozen
from fastshap_lab.models.maskings import Masking
from fastshap_lab.shapley.game import LINKS
from fastshap_lab.shapley.grid import PlayerGrid


class Surrogate(nn.Module):
    """A classifier, and the masking through which it sees coalitions."""

    def __init__(self, classifier: Classifier, masking: Masking, grid: PlayerGrid) -> None:
        super().__init__()
        self.classifier, self.masking, self.grid = classifier, masking, grid

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.classifier.num_classes

    def forward(self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        """Return the logits of each image under each of its coalitions."""
        return self.masking(self.classifier, image, coalitions)


class SurrogateGame:
    """The value function of a surrogate: its frozen answers after a link.

    No module on purpose: a training that holds a game neither trains it nor saves it with its checkpoints.

    Args:
        surrogate: Copied; later changes to it do not reach the game.
        link: Entry of ``shapley.game.LINKS``: the space the values live in.
        max_batch: Rows of a pass, one per image and coalition. Changes values by rounding only.

    Raises:
        UserError: ``max_batch`` is below 1.
    """

    def __init__(self, surrogate: Surrogate, link: str = "softmax", max_batch: int = 512) -> None:
        check_max_batch(max_batch)
        self.surrogate, self.link, self.max_batch = frozen(surrogate), LINKS[link], max_batch
        self.num_players = surrogate.grid.num_players
        self.num_classes = surrogate.num_classes
        self._shared_null: Tensor | None = None

    def to(self, device: torch.device | str) -> "SurrogateGame":
        """Move to a device."""
        self.surrogate.to(device)
        self._shared_null = None
        return self

    def values(self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        """Return the value of each coalition."""
        with torch.inference_mode():
            logits = self.surrogate.masking(self.surrogate.classifier, image, coalitions, self.max_batch)
            values = self.link(logits.float())
        # Cloned outside of inference mode, the caller's too (a validation may be the first to ask for the null value,
        # which is kept): an ordinary tensor, which a loss may keep for its backward pass.
        with torch.inference_mode(False):
            return values.clone()

    def grand(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        """Return the value when every player is present."""
        return self.values(image, self._all(len(image), True, image.device)).squeeze(1)

    def null(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "#B K"]:
        """Return the value when no player is present; one row, asked for once, where it ignores the image."""
        if not self.surrogate.masking.null_ignores_image:
            return self.values(image, self._all(len(image), False, image.device)).squeeze(1)
        if self._shared_null is None:
            self._shared_null = self.values(image[:1], self._all(1, False, image.device)).squeeze(1)
        return self._shared_null

    def __call__(
        self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]
    ) -> tuple[Float[Tensor, "B M K"], Float[Tensor, "B K"], Float[Tensor, "#B K"]]:
        """Return values, grand and null from one batch of passes."""
        parts = [coalitions, self._all(len(image), True, image.device)]
        if not self.surrogate.masking.null_ignores_image:
            parts.append(self._all(len(image), False, image.device))
        values = self.values(image, torch.cat(parts, dim=1))
        num_coalitions = coalitions.shape[1]
        null = self.null(image) if self.surrogate.masking.null_ignores_image else values[:, -1]
        return values[:, :num_coalitions], values[:, num_coalitions], null

    def _all(self, batch_size: int, present: bool, device: torch.device) -> Tensor:
        return torch.full((batch_size, 1, self.num_players), present, device=device)
