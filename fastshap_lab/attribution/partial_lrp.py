"""Partial layer-wise relevance propagation."""

from torch import Tensor, nn

from fastshap_lab.attribution.attention_method import Rows
from fastshap_lab.attribution.relevance import RelevanceMethod
from fastshap_lab.components import Count


class PartialLRP(RelevanceMethod):
    """Relevance of the last block's attention, negative entries cut off, averaged over heads.

    It depends on the class, weakly.

    Reference: Voita et al., Analyzing multi-head self-attention, ACL 2019, arXiv:1905.09418, as Chefer et al.,
    CVPR 2021, arXiv:2012.09838, implement it for vision transformers as a baseline.

    Args:
        model: See ``RelevanceMethod``.
        grad: Multiply the relevance by the target logit's gradient before negative entries are cut off.
        rows: See ``AttentionMethod``.
        max_batch: Images per pass.
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
