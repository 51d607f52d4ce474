"""Shapley values by constrained least squares on pairs of coalitions: KernelSHAP, leverage sampling, refinement."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from fastshap_lab.shapley.designs import PairDesign, num_pairs, pair_design
from fastshap_lab.shapley.efficiency import additive_normalization, equal_split
from fastshap_lab.shapley.estimators.base import Estimate, Estimator
from fastshap_lab.shapley.game import Game


class PairRegression:
    """The weighted least-squares fit of efficient values to the differences between complements.

    What a coalition is worth beyond its complement, ``v(S) - v(N without S)``, is all that Shapley values depend on
    beside the total, and for an additive game it is ``z @ phi`` with z = 1 for members and -1 for others. Minimized is

        ``sum over pairs of w (difference - z @ phi)² + ridge |phi - prior|²``  where phi adds up to the total,

    w being the design's weights with mean 1. The fit is linear, and the same for all images under one design, so that
    it is prepared once.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874; Covert and Lee, AISTATS 2021, arXiv:2012.01536,
    section 3, on the constraint and on pairs.

    Args:
        design: At least P - 1 pairs of different directions, or a ridge.
        ridge: How much the prior counts, in evaluated pairs of average weight.
    """

    def __init__(self, design: PairDesign, ridge: float = 0.0) -> None:
        self.design, self.ridge = design, ridge
        num_players = design.coalitions.shape[1]
        self.signs = 2 * design.coalitions.double() - 1  # (M, P)
        # Changes of phi add up to zero: only a pair's departures from its mean sign meet them.
        centered = self.signs - self.signs.mean(dim=1, keepdim=True)
        weighted = centered * design.relative_weights.unsqueeze(1)
        gram = weighted.T @ centered + ridge * torch.eye(num_players, dtype=torch.float64)
        scale = gram.diagonal().mean()
        factor, failed = torch.linalg.cholesky_ex(gram + scale / num_players)  # the constant direction, left out above
        self.determined = not failed and bool(factor.diagonal().min() > 1e-6 * scale.sqrt())
        if self.determined:
            self.inverse = torch.cholesky_inverse(factor) - 1 / (scale * num_players)  # zero on the constant direction
            self.gain = self.inverse @ weighted.T  # (P, M)

    def fit(
        self, differences: Float[Tensor, "B M K"], prior: Float[Tensor, "B P K"]
    ) -> tuple[Float[Tensor, "B P K"], Float[Tensor, "B M K"]]:
        """Return the values, which add up as the prior does, and what they leave of the differences."""
        left = differences - self.signs @ prior
        change = self.gain @ left
        return prior + change, left - self.signs @ change

    def sampling_stderr(self, residuals: Float[Tensor, "B M K"]) -> Float[Tensor, "B P K"]:
        """Return the standard errors of a fit without a ridge that come from having drawn these pairs and not others.

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

    def posterior_stderr(self, residuals: Float[Tensor, "B M K"]) -> Float[Tensor, "B P K"]:
        """Return the standard errors of a fit with a ridge, up to a factor that only references can tell.

        As if the differences had independent errors, of the residuals' variance, and the prior the errors that the
        ridge stands for; nothing is left where every pair has been evaluated.
        """
        variance = (self.design.relative_weights.unsqueeze(1) * residuals.square()).mean(
            dim=1, keepdim=True
        )  # (B, 1, K)
        return (self.design.remaining * self.inverse.diagonal().clamp_min(0).unsqueeze(1) * variance).sqrt()


class KernelSHAP(Estimator):
    """KernelSHAP on pairs without replacement: sizes as the Shapley kernel has them, the smallest soon complete.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874; paired sampling as in Covert and Lee, AISTATS 2021,
    arXiv:2012.01536, section 4.1. Differs from them: no coalition comes twice, which ends at the exact values.
    """

    allocation: ClassVar[str] = "kernel"
    _kept = ("differences",)

    def __init__(self, game: Game, image: Float[Tensor, "B C H W"], seed: int = 0) -> None:
        super().__init__(game, image, seed)
        self.differences = self.grand.new_empty(len(image), 0, self.grand.shape[1])  # (B, M, K), of the design's pairs

    @property
    def complete(self) -> bool:
        """Whether every coalition has been evaluated."""
        return self.differences.shape[1] == num_pairs(self.num_players)

    def design(self) -> PairDesign:
        """Return the pairs that have been evaluated."""
        return pair_design(self.num_players, self.differences.shape[1], self.allocation, self.seed)

    def _spend(self) -> None:
        before = self.design().stratum.bincount(minlength=self.num_players // 2)
        design = pair_design(self.num_players, self.granted // 2, self.allocation, self.seed)
        counts = design.stratum.bincount(minlength=self.num_players // 2)
        place = torch.arange(len(design.stratum)) - (counts.cumsum(0) - counts)[design.stratum]
        new = place >= before[design.stratum]
        differences = self.differences.new_empty(len(self.image), len(new), self.differences.shape[2])
        differences[:, ~new] = self.differences
        asked = design.coalitions[new]
        for part, chosen in zip(asked.split(self._block), new.nonzero().squeeze(1).split(self._block), strict=True):
            values = self._values(torch.cat([part, ~part]))
            differences[:, chosen] = values[:, : len(part)] - values[:, len(part) :]
        self.differences = differences

    def estimate(self) -> Estimate:
        """Return the fit, and what it may be off because other pairs might have been drawn."""
        total = equal_split(self.grand, self.null, self.num_players)
        regression = PairRegression(self.design())
        if not regression.determined:
            return Estimate(total.clone(), torch.full_like(total, torch.inf), self.evaluations)
        phi, residuals = regression.fit(self.differences, total)
        return Estimate(phi, regression.sampling_stderr(residuals), self.evaluations)

    def refine(self, prior: Float[Tensor, "B P K"], ridge: float) -> Estimate:
        """Return the fit that leans on a prior, and its standard errors up to a factor.

        Args:
            prior: Values known from elsewhere, an explainer's, say; made efficient first.
            ridge: How much the prior counts before anything is complete; it gives way as pairs that are left do, so
                that the fit ends at the exact values.
        """
        prior = additive_normalization(prior.cpu().double(), self.grand, self.null)
        design = self.design()
        regression = PairRegression(design, max(ridge * design.remaining, 1e-9))
        phi, residuals = regression.fit(self.differences, prior)
        return Estimate(phi, regression.posterior_stderr(residuals), self.evaluations)


class LeverageSHAP(KernelSHAP):
    """The same regression with as many pairs of each size, as leverage scores ask for.

    Reference: Musco and Witter, ICLR 2025, arXiv:2410.01917, algorithm 1. Differs from it: the number of pairs of each
    size is fixed rather than drawn, so that the budget is met exactly.
    """

    allocation = "leverage"
