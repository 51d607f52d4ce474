"""How well a model's logits fit labels, and another model's answers."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from fastshap_lab.shapley.losses import surrogate_kl


class Imitation(Metric):
    """Accuracy, cross-entropy against labels, and KL divergence from a classifier, in nats; means over rows."""

    higher_is_better = None
    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self, logits: Float[Tensor, "B M K"], label: Int[Tensor, " B"], classifier_logits: Float[Tensor, "B K"]
    ) -> None:
        """Add images, each with the logits of M coalitions of it."""
        label = label.unsqueeze(1).expand(-1, logits.shape[1])
        correct = logits.argmax(dim=-1) == label
        cross_entropy = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none")
        kl = surrogate_kl(classifier_logits, logits)
        self.sums += torch.stack([part.double().sum() for part in (torch.ones_like(kl), correct, cross_entropy, kl)])

    def compute(self) -> dict[str, float]:
        """Return ``accuracy`` in [0, 1], ``cross_entropy`` and ``kl``."""
        count, *sums = self.sums.tolist()
        return {name: part / count for name, part in zip(("accuracy", "cross_entropy", "kl"), sums, strict=True)}
