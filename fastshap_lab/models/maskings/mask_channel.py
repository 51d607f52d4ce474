"""Absent players take the mean colour, and a channel of its own says where."""

from typing import ClassVar

import torch
from torch import Tensor

from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.maskings.base import Masking


class MaskChannel(Masking):
    """Zero absent pixels in normalized space and append the mask as a fourth channel (1 = present); any network.

    Reference: the CNN surrogates of Jethani et al., FastSHAP, ICLR 2022, arXiv:2107.07436.
    """

    extra_channels: ClassVar[int] = 1

    def forward(self, classifier: Classifier, image: Tensor, coalition: Tensor) -> Tensor:
        """Return logits (N, K) of images (N, 3, H, W), each with one coalition (N, P)."""
        mask = self.grid.to_pixels(coalition.unsqueeze(1)).squeeze(1).to(image.dtype)  # (N, 1, H, W)
        return classifier.network(torch.cat([classifier.normalize(image) * mask, mask], dim=1))
