"""Shapley values by constrained least squares on pairs of coalitions: KernelSHAP and leverage sampling."""

import torch
from jaxtyping import Float
from torch import Tensor

from fastshap_lab.shapley.designs import PairDesign, num_pairs
from fastshap_lab.shapley.efficiency import equal_split
from fastshap_lab.shapley.estimators.base import Estimate
from fastshap_lab.shapley.estimators.pairs import PairEstimator


class PairRegression:
    """The weighted least-squares fit of efficient values to the differences between complementary coalitions.

    Shapley values depend on the total ``v(N) - v(null)`` and on the differences ``v(S) - v(N without S)`` alone. In an
    additive game a difference is ``z @ phi``, with z = 1 for the members of S and -1 for the other players. The fit
    minimizes

        ``sum over pairs of w (difference - z @ phi)²``  over all phi that add up to the total,

    where w are the design's weights. It is linear in the differences, and the same matrix serves all inputs, so it is
    computed once.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874; Covert and Lee, AISTATS 2021, arXiv:2012.01536,
    section 3, on the constraint and on pairs.

    Args:
        design: The evaluated pairs. They must span P - 1 directions; ``determined`` says whether they do.

    Example:
        In an additive game with the values 1 and 2, the difference of a single player and the other is -1 or 1.

        >>> from fastshap_lab.shapley import pair_design
        >>> design = pair_design(num_players=2, pairs=1, allocation="kernel", seed=0)
        >>> difference = 2 * design.coalitions.double() @ torch.tensor([1.0, 2.0], dtype=torch.float64) - 3
        >>> equal = torch.full((1, 2, 1), 1.5, dtype=torch.float64)
        >>> phi, residuals = PairRegression(design).fit(difference.view(1, 1, 1), start=equal)
        >>> phi.flatten().round(decimals=6)
        tensor([1., 2.], dtype=torch.float64)
    """

    def __init__(self, design: PairDesign) -> None:
        self.design = design
        num_players = design.coalitions.shape[1]
        self.signs = 2 * design.coalitions.double() - 1  # (M, P)
        # Changes of phi add up to zero, so only the deviations of a pair's signs from their mean matter.
        centered = self.signs - self.signs.mean(dim=1, keepdim=True)
        weighted = centered * design.relative_weights.unsqueeze(1)
        gram = weighted.T @ centered
        scale = gram.diagonal().mean()
        # The constant direction, which centering has removed, is added for the factorization, and removed afterwards.
        factor, failed = torch.linalg.cholesky_ex(gram + scale / num_players)
        self.determined = not failed and bool(factor.diagonal().min() > 1e-6 * scale.sqrt())
        if self.determined:
            inverse = torch.cholesky_inverse(factor) - 1 / (scale * num_players)
            self.gain = inverse @ weighted.T  # (P, M)

    def fit(
        self, differences: Float[Tensor, "B M K"], start: Float[Tensor, "B P K"]
    ) -> tuple[Float[Tensor, "B P K"], Float[Tensor, "B M K"]]:
        """Return the fitted values and the residuals of the differences.

        Args:
            differences: Value of each pair's coalition minus that of its complement.
            start: Any values with the right sum, for example the equal split; the fitted values have the same sum.
        """
        left = differences - self.signs @ start
        change = self.gain @ left
        return start + change, left - self.signs @ change

    def sampling_stderr(self, residuals: Float[Tensor, "B M K"]) -> Float[Tensor, "B P K"]:
        """Return the standard errors that are due to the random draw of the pairs.

        They are the sandwich estimate for strata drawn without replacement. Residuals are corrected for their own
        influence on the fit (HC3 of MacKinnon and White, Journal of Econometrics 29, 1985). Complete strata add
        nothing.

        Args:
            residuals: Residuals that ``fit`` has returned.
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
    """KernelSHAP on pairs drawn without replacement; the Shapley kernel allocates them to sizes.

    The smallest sizes are soon complete.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874; paired sampling as in Covert and Lee, AISTATS 2021,
    arXiv:2012.01536, section 4.1. Differs from them: no coalition is drawn twice, so the values become exact in the
    end.

    Args:
        game: The game to explain.
        inputs: Inputs of the game, one per entry of the first axis.
        seed: Seed for drawing coalitions.

    Example:
        Player 0 has a left glove, players 1 and 2 a right one each; a pair of gloves is worth 1.

        >>> from fastshap_lab.shapley import FunctionGame
        >>> def gloves(inputs, present):
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> estimator = KernelSHAP(FunctionGame(gloves, 3), torch.zeros(1, 1))
        >>> estimator.advance(6)
        >>> estimator.estimate().phi.flatten()
        tensor([0.6667, 0.1667, 0.1667], dtype=torch.float64)
    """

    @classmethod
    def smallest_budget(cls, num_players: int) -> int:
        """Return the number of evaluations of twice as many pairs as there are unknowns, or of all pairs if fewer.

        With fewer pairs, the residuals are too small to estimate the error from.
        """
        return 2 * min(2 * (num_players - 1), num_pairs(num_players))

    def estimate(self) -> Estimate:
        """Return the fitted values, and their standard errors over random draws of the pairs."""
        total, design = equal_split(self.grand, self.null, self.num_players), self.design()
        regression = PairRegression(design)
        if not regression.determined:
            return Estimate(total.clone(), torch.full_like(total, torch.inf), self.evaluations)
        phi, residuals = regression.fit(self.differences, total)
        if self.complete:
            return Estimate(phi, torch.zeros_like(phi), self.evaluations)
        if self.evaluations < self.smallest_budget(self.num_players):
            return Estimate(phi, torch.full_like(phi, torch.inf), self.evaluations)
        gain_of_one_pair = (design.remaining * regression.gain.square().sum(dim=1, keepdim=True)).sqrt()  # (P, 1)
        share = gain_of_one_pair / (len(design.coalitions) + 1) ** 0.5
        return Estimate(phi, self._not_certain(regression.sampling_stderr(residuals), share), self.evaluations)


class LeverageSHAP(KernelSHAP):
    """The regression of ``KernelSHAP`` on pairs that leverage scores allocate: all sizes get the same number of draws.

    Reference: Musco and Witter, ICLR 2025, arXiv:2410.01917, algorithm 1. Differs from it: the number of pairs of each
    size is fixed rather than drawn, so that the budget is met exactly.

    Args:
        game: The game to explain.
        inputs: Inputs of the game, one per entry of the first axis.
        seed: Seed for drawing coalitions.

    Example:
        >>> from fastshap_lab.shapley import FunctionGame
        >>> def gloves(inputs, present):
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> estimator = LeverageSHAP(FunctionGame(gloves, 3), torch.zeros(1, 1))
        >>> estimator.advance(6)
        >>> estimator.estimate().phi.flatten()
        tensor([0.6667, 0.1667, 0.1667], dtype=torch.float64)
    """

    allocation = "leverage"
