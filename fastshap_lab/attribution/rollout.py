"""Attention rollout: attention multiplied through the blocks, plain or weighted by gradients."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod, Rows
from fastshap_lab.attribution.base import one_of
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError

Fusion = Literal["mean", "max", "min"]


def rollout(layers: Sequence[Float[Tensor, "B T T"]]) -> Float[Tensor, "B T T"]:
    """Return how much of each input token (column) reaches each output token (row); rows sum to one.

    After a block, a token is half its previous content and half what attention added, hence the mean with the identity.

    Reference: Abnar and Zuidema, Quantifying attention flow in transformers, ACL 2020, arXiv:2005.00928.

    Args:
        layers: Non-negative attention of each block, with heads fused, first block first.

    Example:
        >>> uniform = torch.full((1, 2, 2), 0.5)
        >>> rollout([uniform]).tolist()
        [[[0.75, 0.25], [0.25, 0.75]]]
        >>> rollout([uniform, uniform])[0, 0].tolist()
        [0.625, 0.375]
    """
    identity = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    total = identity.expand_as(layers[0])
    for layer in layers:
        mixed = (layer + identity) / 2
        total = mixed / mixed.sum(dim=-1, keepdim=True) @ total
    return total


def discard_smallest(matrix: Float[Tensor, "B T T"], ratio: float, keep_first: bool) -> Float[Tensor, "B T T"]:
    """Return each matrix with its smallest entries set to zero; ties are discarded in row-major order.

    Args:
        matrix: Attention with heads fused.
        ratio: Share of entries to discard, in [0, 1); their number is rounded down.
        keep_first: Whether the first entry, the class token's attention to itself, is always kept.

    Example:
        >>> discard_smallest(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), ratio=0.5, keep_first=True).tolist()
        [[[1.0, 0.0], [3.0, 4.0]]]
    """
    flat = matrix.flatten(1)
    smallest = flat.argsort(dim=1, stable=True)[:, : int(ratio * flat.shape[1])]
    remaining = torch.ones_like(flat, dtype=torch.bool).scatter_(1, smallest, False)
    if keep_first:
        remaining[:, 0] = True
    return torch.where(remaining, flat, 0).view_as(matrix)


class Rollout(AttentionMethod):
    """Attention rollout: how much of each patch reaches the class token through all blocks.

    Reference: see ``rollout``. Other fusions and discarding small entries come from a popular implementation
    (jacobgil/vit-explain), which discards 0.9 by default.

    Args:
        model: Model to explain, see ``AttentionMethod``.
        fusion: How heads are fused: ``mean``, ``max`` or ``min``.
        discard_ratio: Share in [0, 1) of each fused matrix's entries, the smallest, that is set to zero; 0 in the
            paper.
        start_layer: Index of the first block used, from 0.
        rows: Query rows that are read, see ``AttentionMethod``.
        max_batch: Number of images per pass.

    Raises:
        UserError: The method does not apply to the model, or an option is out of range.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=1, num_heads=3)
        >>> Rollout(model).attribute(torch.rand(1, 3, 8, 8)).round(decimals=1)  # untrained: half of 1/5 for each patch
        tensor([[[0.1000, 0.1000],
                 [0.1000, 0.1000]]])
    """

    class_specific = False

    def __init__(
        self,
        model: nn.Module,
        fusion: Fusion = "mean",
        discard_ratio: float = 0.0,
        start_layer: int = 0,
        rows: Rows = "class",
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, rows, max_batch)
        self.fusion, self.discard_ratio = one_of("fusion", fusion, Fusion), _share(discard_ratio)
        self.start_layer = self._block("start_layer", start_layer)

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record = self._look(image)
        fused = [_fuse(attention, self.fusion) for attention in record.attention[self.start_layer :]]
        remaining = [discard_smallest(layer, self.discard_ratio, keep_first=True) for layer in fused]
        return self._map(rollout(remaining), record.grid)


class GradientRollout(AttentionMethod):
    """Rollout of attention times its gradient, averaged over heads, with negative means set to zero.

    The gradient is that of the target's logit.

    Reference: Hebbar, Okafor, Banerjee, Interpreting vision transformers, equations 3.4.

    Differs from the implementation that the paper used: that multiplies the first block's attention by the last block's
    gradient and so on, takes the gradient before the softmax, and normalizes columns where rows should sum to one.

    Args:
        model: Model to explain, see ``AttentionMethod``.
        discard_ratio: Share in [0, 1) of each fused matrix's entries, the smallest, that is set to zero.
        start_layer: Index of the first block used, from 0.
        rows: Query rows that are read, see ``AttentionMethod``.
        max_batch: Number of images per pass.

    Raises:
        UserError: The method does not apply to the model, or an option is out of range.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> GradientRollout(model).attribute(torch.rand(2, 3, 8, 8), target=2).shape
        torch.Size([2, 2, 2])
    """

    def __init__(
        self,
        model: nn.Module,
        discard_ratio: float = 0.9,
        start_layer: int = 0,
        rows: Rows = "class",
        max_batch: Count = 32,
    ) -> None:
        super().__init__(model, rows, max_batch)
        self.discard_ratio, self.start_layer = _share(discard_ratio), self._block("start_layer", start_layer)

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record, by_attention = self._differentiate(image, target)
        pairs = list(zip(record.attention, by_attention, strict=True))[self.start_layer :]
        fused = [(attention * gradient).mean(dim=1).clamp_min(0) for attention, gradient in pairs]
        remaining = [discard_smallest(layer, self.discard_ratio, keep_first=False) for layer in fused]
        return self._map(rollout(remaining), record.grid)


def _fuse(attention: Float[Tensor, "B A T T"], fusion: Fusion) -> Float[Tensor, "B T T"]:
    if fusion == "mean":
        return attention.mean(dim=1)
    return attention.amax(dim=1) if fusion == "max" else attention.amin(dim=1)


def _share(ratio: float) -> float:
    if not 0 <= ratio < 1:
        raise UserError(f"discard_ratio={ratio}: must be at least 0 and below 1")
    return ratio
