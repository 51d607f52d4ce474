"""Whether attributions add up to the values of coalitions."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastshap_lab.metrics.correlation import pearson, spearman
from fastshap_lab.metrics.per_image import PerImage
from fastshap_lab.shapley.coalitions import random_coalitions


def sensitivity_coalitions(
    num_players: int, number: int = 1000, size: int | None = None, seed: int = 0
) -> Bool[Tensor, "1 M P"]:
    """Return random coalitions, the same for every image, of one size or of uniformly drawn sizes 0 … P.

    Args:
        num_players: P.
        number: Number M of coalitions.
        size: Number of players in each coalition; by default it is drawn for each.
        seed: Seed for drawing sizes and coalitions.

    Example:
        >>> sensitivity_coalitions(num_players=4, number=3, size=2).sum(dim=2).tolist()
        [[2, 2, 2]]
    """
    generator = torch.Generator().manual_seed(seed)
    if size is None:
        sizes = torch.randint(num_players + 1, (1, number), generator=generator)
    else:
        sizes = torch.full((1, number), size)
    return random_coalitions(sizes, num_players, generator)


def coalition_sums(phi: Float[Tensor, "B P E"], coalitions: Bool[Tensor, "#B M P"]) -> Float[Tensor, "B M E"]:
    """Return the sum of the attributions of each coalition's players, in float64.

    Args:
        phi: Attributions for E classes.
        coalitions: Coalitions, of each image its own or one set for all.

    Example:
        >>> coalitions = torch.tensor([[[True, True, False], [False, False, False]]])
        >>> coalition_sums(torch.tensor([[[1.0], [2.0], [4.0]]]), coalitions).flatten().tolist()
        [3.0, 0.0]
    """
    # Differences from the first attribution are summed separately, so that equal attributions have exactly equal sums.
    phi, present = phi.double(), coalitions.to(phi.device).double()
    first = phi[:, :1]
    return present @ (phi - first) + present.sum(dim=2, keepdim=True) * first


class SensitivityN(PerImage):
    """Spearman correlation over coalitions between a coalition's value and the sum of its players' attributions.

    It is in [-1, 1], and undefined where either is constant. ``target`` is the correlation for the target class,
    ``others`` its mean over the other explained classes for which it is defined.

    Reference: Covert et al., ViT-Shapley, ICLR 2023, arXiv:2206.05282; after Ancona et al., ICLR 2018,
    arXiv:1711.06104, who use the Pearson correlation.

    Example:
        >>> coalitions = torch.tensor([[[False, False], [True, False], [False, True], [True, True]]])
        >>> values = torch.tensor([[[0.0], [1.0], [2.0], [3.0]]])
        >>> metric = SensitivityN()
        >>> metric.update(torch.tensor([[[1.0], [2.0]]]), coalitions, values, classes=torch.tensor([[0]]))
        >>> round(metric.compute()["target"], 3)
        1.0
    """

    columns = ("target", "others")
    higher_is_better = True
    feed = "coalitions"
    ranked: ClassVar[bool] = True

    def update(
        self,
        phi: Float[Tensor, "B P E"],
        coalitions: Bool[Tensor, "#B M P"],
        values: Float[Tensor, "B M K"],
        classes: Int[Tensor, "B E"],
    ) -> None:
        """Add images. The values of coalitions can be computed once and used for several explanations.

        Args:
            phi: Attributions for the E explained classes.
            coalitions: Coalitions from ``sensitivity_coalitions``.
            values: Values for all K classes from ``coalition_values``, in the space that the attributions explain.
            classes: Explained classes, the target first.
        """
        chosen = classes.to(values.device).unsqueeze(1).expand(-1, values.shape[1], -1)
        worth = values.double().gather(2, chosen)
        correlate = spearman if self.ranked else pearson
        agreement = correlate(coalition_sums(phi, coalitions).to(worth.device), worth)
        parts = [agreement[:, :1]]
        if agreement.shape[1] > 1:
            parts.append(agreement[:, 1:].nanmean(dim=1, keepdim=True))
        self.rows.append(torch.cat(parts, dim=1))


class FaithfulnessCorrelation(SensitivityN):
    """Pearson correlation between the sum of removed attributions and the drop in value, over subsets of one size.

    Removing ``n`` players leaves a coalition of the other ``P - n``: draw coalitions of that size. Removed and
    remaining attributions add up to the same total for all coalitions, and so do the drop and the value. The
    correlation is therefore that between the remaining attributions' sum and the coalition's value. All else is as for
    ``SensitivityN``.

    Reference: Bhatt, Weller and Moura, IJCAI 2020, arXiv:2005.00631.

    Example:
        >>> coalitions = torch.tensor([[[True, True, False], [True, False, True], [False, True, True]]])
        >>> values = torch.tensor([[[3.0], [4.0], [5.0]]])
        >>> metric = FaithfulnessCorrelation()
        >>> metric.update(torch.tensor([[[1.0], [2.0], [3.0]]]), coalitions, values, classes=torch.tensor([[0]]))
        >>> round(metric.compute()["target"], 3)
        1.0
    """

    ranked = False
    feed_defaults: ClassVar[Mapping[str, Any]] = {"share": 0.75}


class Infidelity(PerImage):
    """Mean over coalitions of the squared difference between the sum of removed attributions and the drop in value.

    It is in squared value units, and zero for an additive game and its weights. ``scaled`` multiplies the attributions
    by the factor (of either sign) that makes it smallest, which is fair to maps without a unit. It is at most the mean
    squared drop, which is the infidelity of attributions that are all zero. ``target`` is for the target class,
    ``others`` the mean over the other explained classes.

    Reference: Yeh et al., On the (in)fidelity and sensitivity of explanations, NeurIPS 2019, arXiv:1901.09392,
    definition 2.1, with removal as the perturbation; the factor comes from the authors' code.

    Example:
        >>> coalitions = torch.tensor([[[True, False], [False, True]]])
        >>> values, grand = torch.tensor([[[2.0], [4.0]]]), torch.tensor([[6.0]])
        >>> metric = Infidelity()
        >>> metric.update(torch.tensor([[[1.0], [2.0]]]), coalitions, values, grand, classes=torch.tensor([[0]]))
        >>> metric.compute()  # the drops are 4 and 2, the removed sums 2 and 1: (2² + 1²) / 2; a factor of 2 mends that
        {'target': 2.5, 'target_scaled': 0.0}
    """

    columns = ("target", "target_scaled", "others", "others_scaled")
    higher_is_better = False
    feed, main_column = "coalitions", "target_scaled"  # The scaled measure is fair to maps without a unit.
    note = "The unscaled measure is defined for methods whose attributions are differences of these values."

    def update(
        self,
        phi: Float[Tensor, "B P E"],
        coalitions: Bool[Tensor, "#B M P"],
        values: Float[Tensor, "B M K"],
        grand: Float[Tensor, "B K"],
        classes: Int[Tensor, "B E"],
        in_units: bool = True,
    ) -> None:
        """Add images.

        Args:
            phi: Attributions for the E explained classes.
            coalitions: Coalitions, of each image its own or one set for all.
            values: Values of the coalitions for all K classes.
            grand: Value of the grand coalition.
            classes: Explained classes, the target first.
            in_units: Whether the attributions are differences of the value. Otherwise only ``scaled`` is defined.
        """
        chosen = classes.to(values.device).unsqueeze(1)
        drop = grand.double().unsqueeze(1).gather(2, chosen) - values.double().gather(
            2, chosen.expand(-1, values.shape[1], -1)
        )
        removed = coalition_sums(phi, ~coalitions).to(drop.device)
        square, product = removed.square().sum(dim=1), (removed * drop).sum(dim=1)
        factor = torch.where(square == 0, 0, product / square)
        errors = torch.stack([removed - drop, factor.unsqueeze(1) * removed - drop], dim=-1).square().mean(dim=1)
        if not in_units:
            errors[..., 0] = torch.nan
        parts = [errors[:, 0]]
        if errors.shape[1] > 1:
            parts.append(errors[:, 1:].nanmean(dim=1))
        self.rows.append(torch.cat(parts, dim=1))
