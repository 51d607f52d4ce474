"""The class-specific methods of Chefer et al. that multiply weighted attention through the blocks: CGW1 and CGW2."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import AttentionMethod, Rows
from fastshap_lab.attribution.relevance import RelevanceMethod
from fastshap_lab.components import Count


def weighted_product(layers: Sequence[Float[Tensor, "B T T"]]) -> Float[Tensor, "B T T"]:
    """Return the product of (identity + layer) over blocks, later blocks on the left; rows are not normalized.

    Args:
        layers: Non-negative weighted attention of each block, averaged over heads, first block first.

    Example:
        >>> weighted_product([torch.full((1, 1, 1), 2.0), torch.full((1, 1, 1), 3.0)]).item()  # (1 + 3) (1 + 2)
        12.0
    """
    total = torch.eye(layers[0].shape[-1], dtype=layers[0].dtype, device=layers[0].device).expand_as(layers[0])
    for layer in layers:
        total = total + layer @ total
    return total


def positive_mean(weights: Float[Tensor, "B A T T"], by_attention: Float[Tensor, "B A T T"]) -> Float[Tensor, "B T T"]:
    """Return the mean over heads of the positive part of weights times gradients.

    Args:
        weights: Attention, or its relevance, of one block.
        by_attention: Gradients of the target's logit by that attention.

    Example:
        >>> weights, by_attention = torch.ones(1, 2, 1, 1), torch.tensor([4.0, -2.0]).view(1, 2, 1, 1)
        >>> positive_mean(weights, by_attention).item()
        2.0
    """
    return (weights * by_attention).clamp_min(0).mean(dim=1)


class CGW1(RelevanceMethod):
    """Transformer attribution: gradient times relevance of attention, multiplied through the blocks.

    Reference: Chefer, Gur, Wolf, Transformer interpretability beyond attention visualization, CVPR 2021,
    arXiv:2012.09838, equations 13 and 14; as in the authors' code, later blocks are on the left.

    Args:
        model: Model to explain, see ``RelevanceMethod``.
        start_layer: Index of the first block used, from 0. The paper's evaluation scripts use 1, its notebooks 0.
        rows: Query rows that are read, see ``AttentionMethod``.
        max_batch: Number of images per pass.

    Raises:
        UserError: The method does not apply to the model, or the block does not exist.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> maps = CGW1(model).attribute(torch.rand(2, 3, 8, 8), target=[0, 2])
        >>> maps.shape, bool((maps >= 0).all())
        (torch.Size([2, 2, 2]), True)
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

    Arguments are those of ``AttentionMethod``.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> maps = CGW2(model).attribute(torch.rand(2, 3, 8, 8), target=[0, 2])
        >>> maps.shape, bool((maps >= 0).all())
        (torch.Size([2, 2, 2]), True)
    """

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record, by_attention = self._differentiate(image, target)
        pairs = zip(record.attention, by_attention, strict=True)
        return self._map(weighted_product([positive_mean(*pair) for pair in pairs]), record.grid)
