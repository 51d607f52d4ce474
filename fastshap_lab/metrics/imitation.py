"""How well a model's outputs match labels and another model's outputs."""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.models.tasks import Multiclass, Task


class Imitation(PerImage):
    """The task's measures against labels, and the divergence from a classifier, as means over images.

    For ``multiclass`` these are accuracy, cross-entropy in nats, and KL divergence in nats. Measures against labels are
    NaN for images without a label.

    Args:
        task: Task that defines the measures; ``multiclass`` if None.

    Example:
        >>> metric, logits = Imitation(), torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> metric.update(logits.unsqueeze(1), label=torch.tensor([0, 0]), classifier_outputs=logits)
        >>> found = metric.compute()
        >>> found["accuracy"], round(found["kl"], 6)
        (0.5, 0.0)
    """

    higher_is_better = None

    def __init__(self, task: Task | None = None) -> None:
        super().__init__()
        self.task = task or Multiclass()
        self.columns = (*self.task.measure_names, self.task.imitation)

    def update(
        self, outputs: Float[Tensor, "B M K"], label: Shaped[Tensor, "B *K"], classifier_outputs: Float[Tensor, "B K"]
    ) -> None:
        """Add images. The measures of an image are means over its M coalitions.

        Args:
            outputs: Model outputs for M coalitions of each image.
            label: Label of each image, as the task defines it.
            classifier_outputs: The classifier's outputs for whole images.
        """
        divergence = self.task.divergence(self.task.surrogate_losses[0])
        measures = (*self.task.measures(outputs, label).values(), divergence(classifier_outputs, outputs))
        self.rows.append(torch.stack([each.double().mean(dim=1) for each in measures], dim=1))

    def compute(self) -> dict[str, float]:
        """Return the mean of each column. It is NaN if an image has no label or the model returned NaN."""
        return dict(zip(self.columns, self._rows().mean(dim=0).tolist(), strict=True))
