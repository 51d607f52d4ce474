"""The two class-specific products over blocks of Chefer et al.: CGW1 and CGW2."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod, Rows
from fastshap_lab.attribution.relevance import RelevanceMethod
from fastshap_lab.components import Count


def weighted_product(layers: Sequence[Float[Tensor, "B T T"]]) -> Float[Tensor, "B T T"]:
    """Return the product of (identity + layer), later blocks on the left; rows are not normalized.

    Args:
        layers: Non-negative weighted attention of each block, heads averaged, from the image on.
    """
    total = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device).expand_as(layers[0])
    for layer in layers:
        total = total + layer @ total
    return total


def positive_mean(weights: Float[Tensor, "B A T T"], by_attention: Float[Tensor, "B A T T"]) -> Float[Tensor, "B T T"]:
    """Return the mean over heads of the positive part of weights times gradients."""
    return (weights * by_attention).clamp_min(0).mean(dim=1)


class CGW1(RelevanceMethod):
    """Transformer attribution: gradient times relevance of attention, multiplied through the blocks.

    Reference: Chefer, Gur, Wolf, Transformer interpretability beyond attention visualization, CVPR 2021,
    arXiv:2012.09838, equations 13 and 14; later blocks on the left as in its implementation.

    Args:
        model: See ``RelevanceMethod``.
        start_layer: First block used, counted from 0; the paper's evaluation scripts start at 1, its notebooks at 0.
        rows: See ``AttentionMethod``.
        max_batch: Images per pass.
    """

    def __init__(self, model: nn.Module, start_layer: int = 0, rows: Rows = "class", max_batch: Count = 32) -> None:
        super().__init__(model, rows, max_batch)
        self.start_layer = self._block("start_layer", start_layer)

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        grid, _, relevance, by_attention = self._trace(image, target)
        from_the_last = zip(by_attention[self.start_layer :][::-1], relevance, strict=False)
        layers = [positive_mean(weights, gradient) for gradient, weights in from_the_last]
        return self._map(weighted_product(layers[::-1]), grid)


class CGW2(AttentionMethod):
    """Generic attention explanation: gradient times attention, multiplied through the blocks.

    Reference: Chefer, Gur, Wolf, Generic attention-model explainability, ICCV 2021, arXiv:2103.15679, rules 5 and 6.
    """

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record, by_attention = self._differentiate(image, target)
        pairs = zip(record.attention, by_attention, strict=True)
        return self._map(weighted_product([positive_mean(*pair) for pair in pairs]), record.grid)
