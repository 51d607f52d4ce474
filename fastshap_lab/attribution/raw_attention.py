"""Attention as it is."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod, Rows
from fastshap_lab.attribution.base import restoring
from fastshap_lab.attribution.recording import attention_modules
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError


class RawAttention(AttentionMethod):
    """How much the class token attends to each patch, in one block, as the mean over heads or of one head.

    Rows of attention sum to one over all tokens, so that a map sums to what is left by the prefix tokens.

    Reference: Hebbar, Okafor, Banerjee, Interpreting vision transformers, section 3.3; the baseline "raw attention" of
    Chefer et al., CVPR 2021, arXiv:2012.09838, which is its default here, the last block.

    Args:
        model: See ``AttentionMethod``.
        layer: Block, counted from 0; negative, from the end.
        head: Head, or None for the mean of all.
        rows: See ``AttentionMethod``.
        max_batch: Images per pass.
    """

    class_specific = False

    def __init__(
        self, model: nn.Module, layer: int = -1, head: int | None = None, rows: Rows = "class", max_batch: Count = 32
    ) -> None:
        super().__init__(model, rows, max_batch)
        self.layer, self.head = self._block("layer", layer), head
        num_heads = attention_modules(self.network)[self.layer].num_heads
        if head is not None and not 0 <= head < num_heads:
            raise UserError(f"RawAttention: head={head}: heads are numbered 0 to {num_heads - 1}")

    def all_heads(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L A rows columns"]:
        """Return the maps of every head of every block; their mean over heads is that of every block."""
        with restoring(self.model):
            return torch.cat([self._heads(part.detach().clone()) for part in image.split(self.max_batch)])

    def _heads(self, image: Tensor) -> Tensor:
        record = self._look(image)
        layers = [torch.stack([self._map(one, record.grid) for one in a.unbind(1)], dim=1) for a in record.attention]
        return torch.stack(layers, dim=1)

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record = self._look(image)
        attention = record.attention[self.layer]
        return self._map(attention.mean(dim=1) if self.head is None else attention[:, self.head], record.grid)
