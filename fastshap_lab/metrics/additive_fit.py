"""How well an additive explanation approximates a game."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from fastshap_lab.metrics.bootstrap import bootstrap_sums, percentile_intervals
from fastshap_lab.shapley.efficiency import equal_split
from fastshap_lab.shapley.losses import additive_residuals


class AdditiveFit(Metric):
    """R² of an explanation's additive approximation of a game, relative to the explanation with equal values.

    It uses differences between the value of a coalition and of its complement: the sum of the two is the same for all
    efficient explanations and would only hide how they differ. A value of zero or less means that an explainer has
    collapsed, because it knows no more than the total. A value of one is out of reach where players interact.

    Example:
        >>> coalitions = torch.tensor([[[True, False], [False, True]]])  # one image, one pair of complements
        >>> values, grand, null = torch.tensor([[[3.0], [1.0]]]), torch.tensor([[4.0]]), torch.tensor([[0.0]])
        >>> metric = AdditiveFit()
        >>> metric.update(torch.tensor([[[3.0], [1.0]]]), coalitions, values, grand, null)
        >>> metric.compute().item()
        1.0
    """

    higher_is_better = True
    full_state_update = False
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")

    def update(
        self,
        phi: Float[Tensor, "B P K"],
        coalitions: Bool[Tensor, "B M P"],
        values: Float[Tensor, "B M K"],
        grand: Float[Tensor, "B K"],
        null: Float[Tensor, "#B K"],
    ) -> None:
        """Add images.

        Args:
            phi: Attributions of all classes.
            coalitions: Coalitions drawn from the Shapley kernel, each followed by its complement.
            values: Value of each coalition.
            grand: Value of the grand coalition.
            null: Value of the null coalition; one row if it does not depend on the image.
        """
        equal = equal_split(grand, null, phi.shape[1])
        residuals = [additive_residuals(each, coalitions, values, null) for each in (phi, equal)]
        sums = [_pair_differences(each).square().sum(dim=(1, 2)) for each in residuals]
        self.rows.append(torch.stack(sums, dim=1))

    def compute(self) -> Tensor:
        """Return the R² over all images, at most 1."""
        return _fit(self._sums().sum(dim=0)).float()

    def per_image(self) -> Float[Tensor, " N"]:
        """Return the R² of each image on its own, in the order of the updates."""
        return _fit(self._sums())

    def intervals(self, resamples: int, seed: int = 0) -> tuple[float, float]:
        """Return the bounds of the R²'s 95 % percentile interval from resampling images.

        Args:
            resamples: Number of bootstrap resamples.
            seed: Seed for drawing images.
        """
        low, high = percentile_intervals(_fit(bootstrap_sums(self._sums().cpu(), resamples, seed)).unsqueeze(1))
        return low.item(), high.item()

    def _sums(self) -> Float[Tensor, "N 2"]:
        return torch.as_tensor(dim_zero_cat(self.rows))


def _fit(sums: Float[Tensor, "*shape 2"]) -> Float[Tensor, "*shape"]:
    return 1 - sums[..., 0] / sums[..., 1]


def _pair_differences(residuals: Float[Tensor, "B M K"]) -> Float[Tensor, "B pairs K"]:
    return (residuals[:, ::2] - residuals[:, 1::2]).double()
