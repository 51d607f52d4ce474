"""Maps of a trained explainer, as one of the attribution methods."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastshap_lab.attribution.base import AttributionMethod, Kind
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError


class TrainedExplainer(AttributionMethod):
    """Shapley values of the surrogate's game that the trained explainer predicts for all classes in one forward pass.

    Args:
        model: Classifier to explain. The explainer does not run it.
        explainer: Trained ``AmortizedExplainer``, of which ``grid``, ``link`` and the call are used.
        max_batch: Number of images per pass.

    Raises:
        UserError: ``explainer`` is None.

    Example:
        >>> from fastshap_lab.shapley import PlayerGrid
        >>> class EqualShares:  # in place of an AmortizedExplainer
        ...     grid, link = PlayerGrid((8, 8), (2, 2)), "softmax"
        ...     def __call__(self, image):
        ...         return torch.full((len(image), 4, 3), 0.25)  # (B, P, K)
        >>> TrainedExplainer(nn.Identity(), EqualShares()).attribute(torch.rand(1, 3, 8, 8), target=2).tolist()
        [[[0.25, 0.25], [0.25, 0.25]]]
    """

    kind: ClassVar[Kind] = "attribution"
    inputs = ("model", "explainer")
    uncalled = True

    def __init__(self, model: nn.Module, explainer: Any, max_batch: Count = 32) -> None:
        super().__init__(model, max_batch)
        if explainer is None:
            raise UserError("no explainer was trained")
        self.explainer, self.unit = explainer, explainer.link

    @property
    def modules(self) -> list[nn.Module]:
        """The explainer's network, and the masking through which its normalization evaluates the surrogate."""
        return [self.explainer.network, self.explainer.surrogate.masking]

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        return self._attribute_all(image)[torch.arange(len(image), device=image.device), target]

    def _attribute_all(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self.explainer.grid.to_grid(self.explainer(image))
