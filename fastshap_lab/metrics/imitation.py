"""How well a model's logits fit labels, and another model's answers."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.shapley.losses import surrogate_kl


def constant_kl(classifier_logits: Float[Tensor, "N K"]) -> Float[Tensor, ""]:
    """Return the KL divergence of the best answer that is the same for every image, their mean, in nats; float64.

    It says how much a classifier's answers differ: what a model that ignores the image misses of them.
    """
    p = classifier_logits.double().softmax(dim=-1)
    return torch.special.entr(p.mean(dim=0)).sum() - torch.special.entr(p).sum(dim=-1).mean()


class Imitation(PerImage):
    """Accuracy, cross-entropy against labels, and KL divergence from a classifier, in nats; means over images.

    Accuracy and cross-entropy of images without a label, -100, are undefined.
    """

    columns = ("accuracy", "cross_entropy", "kl")
    higher_is_better = None

    def update(
        self, logits: Float[Tensor, "B M K"], label: Int[Tensor, " B"], classifier_logits: Float[Tensor, "B K"]
    ) -> None:
        """Add images, each with the logits of M coalitions of it, over which it is averaged."""
        label = label.unsqueeze(1).expand(-1, logits.shape[1])
        correct = (logits.argmax(dim=-1) == label).to(logits).masked_fill(label < 0, torch.nan)
        cross_entropy = F.cross_entropy(logits.flatten(0, 1), label.flatten(), reduction="none").view_as(correct)
        kl = surrogate_kl(classifier_logits, logits)
        measures = (correct, cross_entropy.masked_fill(label < 0, torch.nan), kl)
        self.kept.append(torch.stack([each.double().mean(dim=1) for each in measures], dim=1))

    def compute(self) -> dict[str, float]:
        """Return ``accuracy`` in [0, 1], ``cross_entropy`` and ``kl``; NaN stays: no label, or a broken model."""
        return dict(zip(self.columns, self._rows().mean(dim=0).tolist(), strict=True))
