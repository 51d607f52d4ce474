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

    Reference: Hebbar, Okafor, Banerjee, Interpreting vision transformers, equation 3.3. It does not say which axes the
    maximum and the mean are taken over, so a result must name its reading.

    Args:
        attention: After the softmax, between patches alone; rows are queries.
        reading: ``key``: the most a patch receives from any query, averaged over heads. ``query``: the most it gives to
            any key, averaged over heads. ``head``: the most it receives from any head, averaged over queries.
    """
    if reading == "key":
        return attention.amax(dim=2).mean(dim=1)
    if reading == "query":
        return attention.amax(dim=3).mean(dim=1)
    return attention.amax(dim=1).mean(dim=1)


class ScoreMatrix(AttentionMethod):
    """The score matrix of one block; see ``score_matrix``.

    It reads the attention of patches to one another, and so no class token is needed.

    Args:
        model: See ``AttentionMethod``.
        reading: See ``score_matrix``.
        layer: Block, counted from 0; negative, from the end.
        max_batch: Images per pass.
    """

    class_specific = False

    def __init__(self, model: nn.Module, reading: Reading = "key", layer: int = -1, max_batch: Count = 32) -> None:
        super().__init__(model, max_batch=max_batch)
        self.reading, self.layer = one_of("reading", reading, Reading), self._block("layer", layer)

    @staticmethod
    def _without_rows(model: nn.Module, rows: Rows) -> str | None:
        return None

    def all_layers(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B L rows columns"]:
        """Return the maps of every block."""
        with restoring(self.model):
            parts = [self._look(part.detach().clone()) for part in image.split(self.max_batch)]
        return torch.cat([torch.stack([self._of(a, p.grid) for a in p.attention], dim=1) for p in parts])

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record = self._look(image)
        return self._of(record.attention[self.layer], record.grid)

    def _of(self, attention: Tensor, grid: tuple[int, int]) -> Tensor:
        prefix = self.network.num_prefix_tokens
        return score_matrix(attention[:, :, prefix:, prefix:], self.reading).unflatten(1, grid)
