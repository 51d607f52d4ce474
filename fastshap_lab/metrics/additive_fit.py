"""How much of a game an explanation accounts for."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from fastshap_lab.shapley.efficiency import equal_split
from fastshap_lab.shapley.losses import additive_residuals


class AdditiveFit(Metric):
    """R² of the additive approximation of a game, against the explanation that gives every player the same share.

    Over the differences between a coalition's value and its complement's: their sum is the same for all efficient
    explanations and would only hide how they differ. Zero or less says that an explainer has collapsed: it knows no
    more than the total. One is out of reach: no attribution accounts for what players do together.
    """

    higher_is_better = True
    full_state_update = False
    residual: Tensor
    equal_residual: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("residual", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("equal_residual", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        phi: Float[Tensor, "B P K"],
        coalitions: Bool[Tensor, "B M P"],
        values: Float[Tensor, "B M K"],
        grand: Float[Tensor, "B K"],
        null: Float[Tensor, "#B K"],
    ) -> None:
        """Add images with pairs of coalitions from the Shapley kernel, complements side by side, and their values."""
        equal = equal_split(grand, null, phi.shape[1])
        self.residual += _pair_differences(additive_residuals(phi, coalitions, values, null)).square().sum()
        self.equal_residual += _pair_differences(additive_residuals(equal, coalitions, values, null)).square().sum()

    def compute(self) -> Tensor:
        """Return the R², at most 1."""
        return (1 - self.residual / self.equal_residual).float()


def _pair_differences(residuals: Float[Tensor, "B M K"]) -> Float[Tensor, "B pairs K"]:
    return (residuals[:, ::2] - residuals[:, 1::2]).double()
