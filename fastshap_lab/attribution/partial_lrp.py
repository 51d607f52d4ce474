"""Partial layer-wise relevance propagation."""

from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import Rows
from fastshap_lab.attribution.relevance import RelevanceMethod
from fastshap_lab.components import Count


class PartialLRP(RelevanceMethod):
    """Partial layer-wise relevance propagation: the relevance of the last block's attention, averaged over heads.

    Negative entries are set to zero first. The map depends weakly on the class.

    Reference: Voita et al., Analyzing multi-head self-attention, ACL 2019, arXiv:1905.09418, as Chefer et al., CVPR
    2021, arXiv:2012.09838, implement it for vision transformers as a baseline.

    Args:
        model: Model to explain, see ``RelevanceMethod``.
        grad: Whether the relevance is multiplied by the gradient of the target's logit before negative entries are set
            to zero.
        rows: Query rows that are read, see ``AttentionMethod``.
        max_batch: Number of images per pass.

    Raises:
        UserError: The method does not apply to the model.

    Example:
        >>> import torch
        >>> from timm.models import VisionTransformer
        >>> model = VisionTransformer(img_size=8, patch_size=4, num_classes=3, embed_dim=12, depth=2, num_heads=3)
        >>> PartialLRP(model).attribute(torch.rand(2, 3, 8, 8), target=1).shape
        torch.Size([2, 2, 2])
    """

    def __init__(self, model: nn.Module, grad: bool = False, rows: Rows = "class", max_batch: Count = 32) -> None:
        super().__init__(model, rows, max_batch)
        self.grad = grad

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        grid, _, relevance, by_attention = self._trace(image, target, partial=True, differentiate=self.grad)
        last = next(relevance)
        if self.grad:
            last = last * by_attention[-1]
        return self._map(last.clamp_min(0).mean(dim=1), grid)
