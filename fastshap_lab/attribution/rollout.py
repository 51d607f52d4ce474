"""Attention multiplied through the blocks, plain or weighted by gradients."""

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

    Half of what a token holds after a block is what it held before, the other half what its attention brought it.

    Reference: Abnar and Zuidema, Quantifying attention flow in transformers, ACL 2020, arXiv:2005.00928.

    Args:
        layers: Non-negative attention of each block, heads fused, from the image on.
    """
    identity = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device)
    total = identity.expand_as(layers[0])
    for layer in layers:
        mixed = (layer + identity) / 2
        total = mixed / mixed.sum(dim=-1, keepdim=True) @ total
    return total


def discard_smallest(matrix: Float[Tensor, "B T T"], ratio: float, keep_first: bool) -> Float[Tensor, "B T T"]:
    """Return the matrix of each image with its smallest entries set to zero; of equal ones, the first in row order.

    Args:
        matrix: Fused attention.
        ratio: Share of the entries, rounded down.
        keep_first: Spare the very first entry, the class token's attention to itself.
    """
    flat = matrix.flatten(1)
    smallest = flat.argsort(dim=1, stable=True)[:, : int(ratio * flat.shape[1])]
    remaining = torch.ones_like(flat, dtype=torch.bool).scatter_(1, smallest, False)
    if keep_first:
        remaining[:, 0] = True
    return torch.where(remaining, flat, 0).view_as(matrix)


class Rollout(AttentionMethod):
    """Attention rollout: what of each patch reaches the class token through all blocks.

    Reference: see ``rollout``; other fusions and the discarding of small entries come from its popular implementation,
    where discarding 0.9 is the default.

    Args:
        model: See ``AttentionMethod``.
        fusion: How heads become one.
        discard_ratio: Share of each fused matrix's entries that is set to zero, the smallest; 0 as in the paper.
        start_layer: First block used, counted from 0.
        rows: See ``AttentionMethod``.
        max_batch: Images per pass.
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
    """Rollout of attention times the target logit's gradient by it, averaged over heads, negative means cut off.

    Reference: Hebbar, Okafor, Banerjee, Interpreting vision transformers, equations 3.4.

    Differs from the implementation the paper used, which multiplies the first block's attention by the last block's
    gradient and so on, takes the gradient before the softmax, and divides columns where rows are to sum to one.

    Args:
        model: See ``AttentionMethod``.
        discard_ratio: Share of each fused matrix's entries that is set to zero, the smallest.
        start_layer: First block used, counted from 0.
        rows: See ``AttentionMethod``.
        max_batch: Images per pass.
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
        raise UserError(f"discard_ratio={ratio}: at least 0 and below 1")
    return ratio
