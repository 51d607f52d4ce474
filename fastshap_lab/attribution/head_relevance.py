"""Attention times gradient, weighted by the relevance of heads."""

import torch
from jaxtyping import Float
from torch import Tensor

from fastshap_lab.attribution.relevance import RelevanceMethod


def head_weights(relevance: Float[Tensor, "B L A T T"]) -> Float[Tensor, "B L A"]:
    """Return each head's share of the relevance of all heads of all blocks; negative relevance counts as zero.

    Example:
        >>> head_weights(torch.tensor([1.0, 3.0, -1.0, 0.0]).view(1, 2, 2, 1, 1)).tolist()
        [[[0.25, 0.75], [0.0, 0.0]]]
    """
    mean = relevance.mean(dim=(-2, -1)).clamp_min(0)
    total = mean.sum(dim=(1, 2), keepdim=True)
    return mean / torch.where(total > 0, total, 1)


class HeadRelevance(RelevanceMethod):
    """Sum over blocks and heads of attention times its gradient, weighted by the heads' relevance.

    The gradient is that of the target's logit.

    Reference: Coporan, Visualization techniques for improving explainability in visual transformers, which calls the
    weight "LRP score of the head" and does not define it.

    Differs from the paper: ``head_weights`` is this project's interpretation of that score.

    Arguments are those of ``AttentionMethod``.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> HeadRelevance(model).attribute(torch.rand(2, 3, 8, 8)).shape
        torch.Size([2, 2, 2])
    """

    kind = "attribution"

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        grid, attention, relevance, by_attention = self._trace(image, target)
        weights = head_weights(torch.stack(list(relevance)[::-1], dim=1)).unbind(dim=1)
        triples = zip(weights, attention, by_attention, strict=True)
        layers = [torch.einsum("ba,batu,batu->btu", *triple) for triple in triples]
        return self._map(torch.stack(layers).sum(dim=0), grid)
