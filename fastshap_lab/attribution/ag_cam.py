"""Attention-guided CAM."""

import torch
from torch import Tensor

from fastshap_lab.attribution.attention_method import AttentionMethod


class AGCAM(AttentionMethod):
    """Attention-guided CAM: a sum over blocks and heads of sigmoid attention scores times positive gradients.

    The scores are the scaled dot products before the softmax; the gradients are those of the target's logit by the
    attention after the softmax. They flow through residual connections and MLPs only: each attention module's input is
    held constant.

    Reference: Leem and Seo, Attention guided CAM, AAAI 2024, arXiv:2402.04563, equations 2 and 7.

    Arguments are those of ``AttentionMethod``.

    Example:
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> AGCAM(model).attribute(torch.rand(2, 3, 8, 8), target=1).shape
        torch.Size([2, 2, 2])
    """

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record, by_attention = self._differentiate(image, target, detach_inputs=True)
        layers = [
            (scores.sigmoid() * gradient.clamp_min(0)).sum(dim=1)
            for scores, gradient in zip(record.scores, by_attention, strict=True)
        ]
        return self._map(torch.stack(layers).sum(dim=0), record.grid)
