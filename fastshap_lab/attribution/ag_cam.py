"""Attention-guided CAM."""

import torch
from torch import Tensor

from fastshap_lab.attribution.attention_method import AttentionMethod


class AGCAM(AttentionMethod):
    """Sum over blocks and heads of the sigmoid of attention scores, before the softmax, times positive gradients.

    The target logit's gradient by the attention, after the softmax, runs through residual sums and MLPs only: the input
    of each attention counts as constant.

    Reference: Leem and Seo, Attention guided CAM, AAAI 2024, arXiv:2402.04563, equations 2 and 7.
    """

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        record, by_attention = self._differentiate(image, target, detach_inputs=True)
        layers = [
            (scores.sigmoid() * gradient.clamp_min(0)).sum(dim=1)
            for scores, gradient in zip(record.scores, by_attention, strict=True)
        ]
        return self._map(torch.stack(layers).sum(dim=0), record.grid)
