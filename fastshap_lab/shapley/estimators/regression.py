"""Shapley values by constrained least squares on pairs of coalitions: KernelSHAP and leverage sampling."""

import torch
from jaxtyping import Float
from torch import Tensor

from fastshap_lab.shapley.designs import PairDesign, num_pairs
from fastshap_lab.shapley.efficiency import equal_split
from fastshap_lab.shapley.estimators.base import Estimate
from fastshap_lab.shapley.estimators.pairs import PairEstimator


class PairRegression:
    """The weighted least-squares fit of efficient values to the differences between complements.

    What a coalition is worth beyond its complement, ``v(S) - v(N without S)``, is all that Shapley values depend on
    beside the total, and for an additive game it is ``z @ phi`` with z = 1 for members and -1 for others. Minimized is

        ``sum over pairs of w (difference - z @ phi)²``  where phi adds up to the total,

    w being the design's weights. The fit is linear, and the same for all inputs under one design, so that it is
    prepared once.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874; Covert and Lee, AISTATS 2021, arXiv:2012.01536,
    section 3, on the constraint and on pairs.

    Args:
        design: At least P - 1 pairs of different directions; ``determined`` says whether they are.

    Example:
        >>> import torch
        >>> from fastshap_lab.shapley import pair_design
        >>> regression = PairRegression(pair_design(3, 3, "kernel", seed=0))  # each player alone against the others
        >>> truth = torch.tensor([3.0, 2.0, 1.0]).double()
        >>> differences = (2 * regression.design.coalitions.double() - 1) @ truth
        >>> phi, _ = regression.fit(differences.view(1, 3, 1), torch.full((1, 3, 1), 2.0).double())
        >>> [round(value, 4) for value in phi.flatten().tolist()]
        [3.0, 2.0, 1.0]
    """

    def __init__(self, design: PairDesign) -> None:
        self.design = design
        num_players = design.coalitions.shape[1]
        self.signs = 2 * design.coalitions.double() - 1  # (M, P)
        # Changes of phi add up to zero: only a pair's departures from its mean sign meet them.
        centered = self.signs - self.signs.mean(dim=1, keepdim=True)
        weighted = centered * design.relative_weights.unsqueeze(1)
        gram = weighted.T @ centered
        scale = gram.diagonal().mean()
        factor, failed = torch.linalg.cholesky_ex(gram + scale / num_players)  # the constant direction, left out above
        self.determined = not failed and bool(factor.diagonal().min() > 1e-6 * scale.sqrt())
        if self.determined:
            inverse = torch.cholesky_inverse(factor) - 1 / (scale * num_players)  # zero on the constant direction
            self.gain = inverse @ weighted.T  # (P, M)

    def fit(
        self, differences: Float[Tensor, "B M K"], start: Float[Tensor, "B P K"]
    ) -> tuple[Float[Tensor, "B P K"], Float[Tensor, "B M K"]]:
        """Return values that add up as the starting values do, and the residuals of the differences.

        Args:
            differences: Value of each pair's coalition minus that of its complement (B, M, K).
            start: Values to start from (B, P, K).
        """
        left = differences - self.signs @ start
        change = self.gain @ left
        return start + change, left - self.signs @ change

    def sampling_stderr(self, residuals: Float[Tensor, "B M K"]) -> Float[Tensor, "B P K"]:
        """Return the standard errors that come from having drawn these pairs and not others.

        The sandwich estimate for strata drawn without replacement, with residuals corrected for the fit's having seen
        them (HC3 of MacKinnon and White, Journal of Econometrics 29, 1985): strata that are complete add nothing.
        """
        leverage = (self.signs * self.gain.T).sum(dim=1).clamp(max=1 - 1e-6)  # (M,)
        corrected = residuals / (1 - leverage).unsqueeze(1)
        missing = 1 - self.design.sampled
        variance = residuals.new_zeros(len(residuals), len(self.gain), residuals.shape[2])
        for stratum in self.design.stratum[missing > 0].unique():
            chosen = self.design.stratum == stratum
            gain, left, count = self.gain[:, chosen], corrected[:, chosen], int(chosen.sum())
            spread = gain.square() @ left.square()
            if count > 1:
                spread = (spread - (gain @ left).square() / count) * count / (count - 1)
            variance = variance + missing[chosen][0] * spread
        return variance.clamp_min(0).sqrt()


class KernelSHAP(PairEstimator):
    """KernelSHAP on pairs without replacement: sizes as the Shapley kernel has them, the smallest soon complete.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874; paired sampling as in Covert and Lee, AISTATS 2021,
    arXiv:2012.01536, section 4.1. Differs from them: no coalition comes twice, which ends at the exact values.

    Example:
        >>> import torch
        >>> from fastshap_lab.shapley import FunctionGame
        >>> def gloves(inputs, present):  # player 0 has a left glove, the others right ones; a pair is worth 1
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> estimator = KernelSHAP(FunctionGame(gloves, 3), torch.zeros(1, 1))
        >>> estimator.advance(6)
        >>> estimator.estimate().phi.squeeze().mul(6).round().tolist()
        [4.0, 1.0, 1.0]
    """

    @classmethod
    def smallest_budget(cls, num_players: int) -> int:
        """Return the evaluations of twice as many pairs as there are unknowns, or of all pairs where these are fewer.

        With fewer, the fit leaves too little of the differences to tell its error from.
        """
        return 2 * min(2 * (num_players - 1), num_pairs(num_players))

    def estimate(self) -> Estimate:
        """Return the fit, and what it may be off because other pairs might have been drawn."""
        total, design = equal_split(self.grand, self.null, self.num_players), self.design()
        regression = PairRegression(design)
        if not regression.determined:
            return Estimate(total.clone(), torch.full_like(total, torch.inf), self.evaluations)
        phi, residuals = regression.fit(self.differences, total)
        if self.complete:
            return Estimate(phi, torch.zeros_like(phi), self.evaluations)
        if self.evaluations < self.smallest_budget(self.num_players):
            return Estimate(phi, torch.full_like(phi, torch.inf), self.evaluations)
        of_one_pair = (design.remaining * regression.gain.square().sum(dim=1, keepdim=True)).sqrt()  # (P, 1)
        share = of_one_pair / (len(design.coalitions) + 1) ** 0.5
        return Estimate(phi, self._not_certain(regression.sampling_stderr(residuals), share), self.evaluations)


class LeverageSHAP(KernelSHAP):
    """The same regression with as many pairs of each size, as leverage scores ask for.

    Reference: Musco and Witter, ICLR 2025, arXiv:2410.01917, algorithm 1. Differs from it: the number of pairs of each
    size is fixed rather than drawn, so that the budget is met exactly.
    """

    allocation = "leverage"
