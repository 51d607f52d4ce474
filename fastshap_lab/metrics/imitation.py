"""How well a model's answers fit labels, and another model's answers."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.models.tasks import Multiclass, Task


class Imitation(PerImage):
    """The measures of a task against labels, and the divergence from a classifier; means over images.

    Of ``multiclass``: accuracy, cross-entropy and KL divergence, in nats. What is measured against labels is undefined
    of images that have none.

    Args:
        task: What the answers mean; ``multiclass`` if None.
    """

    higher_is_better = None

    def __init__(self, task: Task | None = None) -> None:
        super().__init__()
        self.task = task or Multiclass()
        self.columns = (*self.task.measure_names, self.task.imitation)

    def update(
        self, outputs: Float[Tensor, "B M K"], label: Shaped[Tensor, "B *K"], classifier_outputs: Float[Tensor, "B K"]
    ) -> None:
        """Add images, each with the outputs for M coalitions of it, over which it is averaged."""
        divergence = self.task.divergence(self.task.surrogate_losses[0])
        measures = (*self.task.measures(outputs, label).values(), divergence(classifier_outputs, outputs))
        self.rows.append(torch.stack([each.double().mean(dim=1) for each in measures], dim=1))

    def compute(self) -> dict[str, float]:
        """Return the mean of each column; NaN stays: no label, or a broken model."""
        return dict(zip(self.columns, self._rows().mean(dim=0).tolist(), strict=True))
