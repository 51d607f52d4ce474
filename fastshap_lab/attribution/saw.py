"""SAW: self-attention weighted by blocks."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod, Rows
from fastshap_lab.attribution.base import one_of
from fastshap_lab.attribution.chefer import positive_mean
from fastshap_lab.components import Count

Weights = Literal["gradient_mass", "uniform"]


def gradient_mass(by_attention: Sequence[Float[Tensor, "B A T T"]]) -> Float[Tensor, "B L"]:
    """Return each block's share of the positive gradients by attention; equal shares if no gradient is positive.

    Args:
        by_attention: Gradients of the target's logit by the attention of each of L blocks.

    Example:
        >>> gradient_mass([torch.ones(1, 1, 2, 2), 3 * torch.ones(1, 1, 2, 2)]).tolist()
        [[0.25, 0.75]]
    """
    mass = torch.stack([gradient.clamp_min(0).mean(dim=(1, 2, 3)) for gradient in by_attention], dim=1)
    total = mass.sum(dim=1, keepdim=True)
    return torch.where(total > 0, mass / torch.where(total > 0, total, 1), 1 / mass.shape[1])


class SAW(AttentionMethod):
    """Weighted sum over blocks of attention times the gradient of the target's logit by it.

    Reference: Mallick et al., I SAW: a self-attention weighted method for explanation of visual transformers, 2022, as
    Coporan, Visualization techniques for improving explainability in visual transformers, section 4.1, cites it.

    May differ from the paper: the public texts define neither the weights nor the summands. In this project's
    interpretation, the summands are those of CGW2 and the weights are ``gradient_mass``.

    Args:
        model: Model to explain, see ``AttentionMethod``.
        weights: Weights of the blocks: ``gradient_mass`` or ``uniform``.
        rows: Query rows that are read, see ``AttentionMethod``.
        max_batch: Number of images per pass.

    Raises:
        UserError: The method does not apply to the model, or ``weights`` is unknown.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> maps = SAW(model).attribute(torch.rand(2, 3, 8, 8), target=0)
        >>> maps.shape, bool((maps >= 0).all())
        (torch.Size([2, 2, 2]), True)
    """

    def __init__(
        self,
        model: nn.Module,
        weights: Weights = "gradient_mass",
        rows: Rows = "class",
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, rows, max_batch)
        self.weights = one_of("weights", weights, Weights)

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record, by_attention = self._differentiate(image, target)
        layers = torch.stack([positive_mean(*p) for p in zip(record.attention, by_attention, strict=True)], dim=1)
        if self.weights == "uniform":
            return self._map(layers.mean(dim=1), record.grid)
        return self._map(torch.einsum("bl,bltu->btu", gradient_mass(by_attention), layers), record.grid)
