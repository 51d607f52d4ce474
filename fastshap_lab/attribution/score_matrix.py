"""Peak attention between patches."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod, Rows
from fastshap_lab.attribution.base import one_of, restoring
from fastshap_lab.components import Count

Reading = Literal["key", "query", "head"]


def score_matrix(attention: Float[Tensor, "B A P P"], reading: Reading) -> Float[Tensor, "B P"]:
    """Return the average peak attention of each patch, in [0, 1].

    Reference: Hebbar, Okafor, Banerjee, Interpreting vision transformers, equation 3.3. The paper does not say over
    which axes the maximum and the mean are taken, so a result must name its reading.

    Args:
        attention: Attention after the softmax, between patches only; rows are queries.
        reading: ``key``: the maximum that a patch receives from any query, averaged over heads. ``query``: the maximum
            that it gives to any key, averaged over heads. ``head``: the maximum that it receives in any head, averaged
            over queries.

    Example:
        >>> attention = torch.tensor([[[[0.1, 0.9], [0.3, 0.5]]]])
        >>> score_matrix(attention, "key"), score_matrix(attention, "query")
        (tensor([[0.3000, 0.9000]]), tensor([[0.9000, 0.5000]]))
    """
    if reading == "key":
        return attention.amax(dim=2).mean(dim=1)
    if reading == "query":
        return attention.amax(dim=3).mean(dim=1)
    return attention.amax(dim=1).mean(dim=1)


class ScoreMatrix(AttentionMethod):
    """The score matrix of one block, see ``score_matrix``.

    It uses only attention between patches, so the network needs no class token.

    Args:
        model: Model to explain, see ``AttentionMethod``.
        reading: Axes of the maximum and the mean, see ``score_matrix``.
        layer: Index of the block, from 0; a negative index counts from the end.
        max_batch: Number of images per pass.

    Raises:
        UserError: The method does not apply to the model, the block does not exist, or the reading is unknown.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> ScoreMatrix(model).attribute(torch.rand(1, 3, 8, 8)).round(decimals=1)  # untrained: a 5th from each query
        tensor([[[0.2000, 0.2000],
                 [0.2000, 0.2000]]])
    """

    class_specific = False

    def __init__(self, model: nn.Module, reading: Reading = "key", layer: int = -1, max_batch: Count = 32) -> None:
        super().__init__(model, max_batch=max_batch)
        self.reading, self.layer = one_of("reading", reading, Reading), self._block("layer", layer)

    @staticmethod
    def _without_rows(model: nn.Module, rows: Rows) -> str | None:
        return None

    def all_layers(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L rows columns"]:
        """Return the maps of all L blocks."""
        with restoring(self.model):
            parts = [self._look(part.detach().clone()) for part in image.split(self.max_batch)]
        return torch.cat([torch.stack([self._of(a, p.grid) for a in p.attention], dim=1) for p in parts])

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record = self._look(image)
        return self._of(record.attention[self.layer], record.grid)

    def _of(self, attention: Tensor, grid: tuple[int, int]) -> Tensor:
        prefix = self.network.num_prefix_tokens
        return score_matrix(attention[:, :, prefix:, prefix:], self.reading).unflatten(1, grid)
