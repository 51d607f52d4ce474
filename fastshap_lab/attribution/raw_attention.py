"""Raw attention of a single block."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod, Rows
from fastshap_lab.attribution.base import restoring
from fastshap_lab.attribution.recording import attention_modules
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError


class RawAttention(AttentionMethod):
    """The class token's attention to each patch in one block, averaged over heads or of one head.

    Each row of attention sums to one over all tokens, so a map sums to one minus the attention to prefix tokens.

    Reference: Hebbar, Okafor, Banerjee, Interpreting vision transformers, section 3.3. The last block, the default, is
    the baseline "raw attention" of Chefer et al., CVPR 2021, arXiv:2012.09838.

    Args:
        model: Model to explain, see ``AttentionMethod``.
        layer: Index of the block, from 0; a negative index counts from the end.
        head: Index of the head, or None for the mean over heads.
        rows: Query rows that are read, see ``AttentionMethod``.
        max_batch: Number of images per pass.

    Raises:
        UserError: The method does not apply to the model, or the block or the head does not exist.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> RawAttention(model).attribute(torch.rand(1, 3, 8, 8)).round(decimals=1)  # untrained: a 5th to each token
        tensor([[[0.2000, 0.2000],
                 [0.2000, 0.2000]]])
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
        """Return the maps of all L blocks and A heads."""
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
