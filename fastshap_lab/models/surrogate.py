"""The surrogate: a classifier that takes coalitions."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.game import ModelGame
from fastshap_lab.models.maskings import Masking
from fastshap_lab.models.tasks import Task
from fastshap_lab.shapley.players import PlayerGrid


class Surrogate(nn.Module):
    """A classifier together with the masking through which it sees coalitions.

    Args:
        classifier: Network of images.
        masking: Shows a coalition to the network.
        grid: The players.
    """

    def __init__(self, classifier: Classifier, masking: Masking, grid: PlayerGrid) -> None:
        super().__init__()
        self.classifier, self.masking, self.grid = classifier, masking, grid

    @property
    def num_classes(self) -> int:
        """Number of classes K."""
        return self.classifier.num_classes

    @property
    def task(self) -> Task:
        """Task that the K outputs belong to."""
        return self.classifier.task

    def forward(self, image: Float[Tensor, "B C H W"], coalitions: Bool[Tensor, "B M P"]) -> Float[Tensor, "B M K"]:
        """Return the logits of each image under each of its coalitions."""
        return self.masking(self.classifier, image, coalitions)

    def game(self, link: str | None = None, max_batch: int = 512) -> ModelGame:
        """Return the surrogate's game. The game of a ``frozen_copy`` is faster, and training does not change it.

        Args:
            link: Entry of ``shapley.game.LINKS``; the task's first link if None.
            max_batch: Largest number of rows of a pass, one per image and coalition.
        """
        return ModelGame(self.classifier, self.masking, link or self.task.links[0], max_batch)
