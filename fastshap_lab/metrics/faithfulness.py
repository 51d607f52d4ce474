"""Whether attributions add up to what coalitions are worth."""

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
    """Return coalitions of exactly ``size`` players, or of uniformly drawn size 0 … P: the same for every image."""
    generator = torch.Generator().manual_seed(seed)
    if size is None:
        sizes = torch.randint(num_players + 1, (1, number), generator=generator)
    else:
        sizes = torch.full((1, number), size)
    return random_coalitions(sizes, num_players, generator)


def coalition_sums(phi: Float[Tensor, "B P E"], coalitions: Bool[Tensor, "#B M P"]) -> Float[Tensor, "B M E"]:
    """Return the sum of each coalition's attributions, in float64."""
    # Equal attributions have equal sums, whatever the order of addition: what differs from the first adds up apart.
    phi, present = phi.double(), coalitions.to(phi.device).double()
    first = phi[:, :1]
    return present @ (phi - first) + present.sum(dim=2, keepdim=True) * first


class SensitivityN(PerImage):
    """Rank correlation between sums of a coalition's attributions and its value, over coalitions.

    In [-1, 1]; undefined where one of both is constant. Of the target, and of the other classes explained, averaged
    over those where it is defined.

    Reference: Covert et al., ViT-Shapley, ICLR 2023, arXiv:2206.05282; after Ancona et al., ICLR 2018,
    arXiv:1711.06104, who correlate linearly.
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
        """Add images, with the values of coalitions: found once, they serve every explanation.

        Args:
            phi: Attributions for E classes.
            coalitions: From ``sensitivity_coalitions``.
            values: Of all classes, from ``coalition_values``, in the space that the attributions explain.
            classes: Which classes are explained, the target first.
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

    Removing ``n`` players leaves a coalition of the ``P - n`` others: draw coalitions of that size. What is removed and
    what is left add up to the same for all of them, sums and values alike, so the correlation is the same as
    between what is left and its value; otherwise as ``SensitivityN``.

    Reference: Bhatt, Weller and Moura, IJCAI 2020, arXiv:2005.00631.
    """

    ranked = False
    feed_defaults: ClassVar[Mapping[str, Any]] = {"share": 0.75}


class Infidelity(PerImage):
    """Mean over coalitions of the squared difference between the removed attributions' sum and the drop in value.

    In squared units of the value; zero for an additive game and its weights. ``scaled``: with the attributions times
    the factor that makes it least, of either sign, which is fair to maps without a unit; at most the mean squared drop,
    which is what attributions that are all zero have. Of the target, and of the other classes explained, averaged.

    Reference: Yeh et al., On the (in)fidelity and sensitivity of explanations, NeurIPS 2019, arXiv:1901.09392,
    definition 2.1, with removal as the perturbation; the factor, from the code published with it.
    """

    columns = ("target", "target_scaled", "others", "others_scaled")
    higher_is_better = False
    feed, main_column = "coalitions", "target_scaled"  # which is fair to maps without a unit
    note = "Unscaled for methods whose attributions are differences of these values."

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
            phi: This and the others are as for ``SensitivityN``.
            coalitions: Present players.
            values: Theirs.
            grand: The value of the whole image.
            classes: Explained of each, the target first.
            in_units: Whether attributions are differences of the value; of others only ``scaled`` is defined.
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
