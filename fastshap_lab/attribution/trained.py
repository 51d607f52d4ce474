"""Maps of a trained explainer, as a method among others."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fastshap_lab.attribution.base import AttributionMethod, Kind
from fastshap_lab.components import Count
from fastshap_lab.errors import UserError


class TrainedExplainer(AttributionMethod):
    """Shapley values of the surrogate's game, as the trained explainer predicts them in one pass for all classes.

    Args:
        model: The classifier, which the explainer does not ask.
        explainer: An ``AmortizedExplainer``.
        max_batch: Images per pass.

    Raises:
        UserError: There is no explainer.
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
        """The explainer's network, and what its normalization asks of the surrogate."""
        return [self.explainer.network, self.explainer.surrogate.masking]

    def _attribute(self, image: Tensor, target: Tensor) -> Tensor:
        return self._attribute_all(image)[torch.arange(len(image), device=image.device), target]

    def _attribute_all(self, image: Tensor) -> Tensor:
        with torch.no_grad():
            return self.explainer.grid.to_grid(self.explainer(image))
