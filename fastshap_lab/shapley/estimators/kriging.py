"""Kriging: Shapley values by Gaussian-process regression on the odd part of a game, which determines them."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.designs import num_pairs, pair_design
from fastshap_lab.shapley.efficiency import additive_normalization, equal_split
from fastshap_lab.shapley.estimators.base import Estimate
from fastshap_lab.shapley.estimators.pairs import PairEstimator
from fastshap_lab.shapley.estimators.regression import PairRegression

# Candidates for the parameters of the prior, over which the posterior is averaged, see ``PairKriging``. With the
# largest interaction the prior is nearly white noise.
INTERACTIONS = (0.05, 0.2, 0.45, 0.8)
ADDITIVITIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

# Largest number of pairs, whose covariance is factorized once for each interaction. With this number a factorization
# takes 2.2 GB, which grow with the square of the number, and some seconds, which grow with its cube.
MAX_PAIRS = 8192

# Variance of the part that depends on a coalition's size alone, relative to the variance of the interactions.
_SYMMETRY = 0.3

# Variance of an assumed error of the values, relative to that of the interactions: it keeps factorizations stable.
_NUGGET = 1e-8

# Number of columns (inputs times classes) that are processed together, which bounds the memory.
_COLUMNS = 1024

# Factorizations of up to this number of pairs, of 40 to 220 MB each, are cached: inputs are often explained one by one.
_REMEMBERED = 1024


def order_variances(num_players: int, interaction: float) -> Float[Tensor, " orders"]:
    """Return the share of the interactions' variance on the coefficients of each size 0 … P; the sum is 1.

    Only odd sizes from 3 on have a share: single players have a variance of their own, and even sizes do not affect
    Shapley values. With two players all shares are 0.

    Args:
        num_players: Number of players P.
        interaction: Variance of one coefficient of size u + 1 relative to one of size u, above 0 and below 1.

    Example:
        Of three players, size 3 is the only odd size from 3 on.

        >>> order_variances(3, interaction=0.2)
        tensor([0., 0., 0., 1.], dtype=torch.float64)
    """
    sizes = torch.arange(num_players + 1, dtype=torch.float64)
    odd = (sizes % 2 == 1) & (sizes >= 3)
    if not bool(odd.any()):
        return torch.zeros_like(sizes)
    # Logarithms, since the number of coalitions may exceed the range of a float.
    log_count = -torch.lgamma(sizes + 1) - torch.lgamma(num_players - sizes + 1)
    return (log_count + sizes * math.log(interaction)).masked_fill(~odd, -torch.inf).softmax(dim=0)


@lru_cache(maxsize=16)
def mean_products(num_players: int) -> Float[Tensor, "sizes distances"]:
    """Return the mean of ``prod_{i in U} x_i y_i`` over all U of each size 0 … P, for each distance 0 … P of x and y.

    x and y are vectors of P signs, and their distance is the number of signs that differ. The means are Krawtchouk
    polynomials divided by their values at distance 0, so that none is larger than 1. For sizes above P / 2 the
    recurrence would lose all digits; there ``p[P - u](h) = (-1)^h p[u](h)``.

    Args:
        num_players: Number of players P.

    Example:
        If one of two signs differs, the products of size 1 are 1 and -1, and that of size 2 is -1.

        >>> mean_products(2)[:, 1]
        tensor([ 1.,  0., -1.], dtype=torch.float64)
    """
    distances = torch.arange(num_players + 1, dtype=torch.float64)
    rows = [torch.ones_like(distances), 1 - 2 * distances / max(num_players, 1)]
    for size in range(1, num_players // 2):
        rows.append(((num_players - 2 * distances) * rows[size] - size * rows[size - 1]) / (num_players - size))
    lower = torch.stack(rows[: num_players // 2 + 1])
    return torch.cat([lower, ((1 - 2 * (distances % 2)) * lower[: (num_players + 1) // 2]).flip(0)])


def size_covariances(present: Bool[Tensor, "rows P"]) -> Float[Tensor, "rows rows"]:
    """Return the prior covariance of the part of a game that depends on the size of a coalition alone.

    It is ``exp(-|u - v|) - exp(-|u + v|)`` for two coalitions of sizes u and v, which are scaled from -1 for the null
    to
    1 for the grand coalition: the odd part of an Ornstein-Uhlenbeck process.

    Args:
        present: Coalitions.

    Example:
        A half of the players has the size 0, where an odd function is 0.

        >>> size_covariances(torch.tensor([[True, False]]))
        tensor([[0.]], dtype=torch.float64)
    """
    share = 2 * present.double().mean(dim=1) - 1
    return (-(share.unsqueeze(1) - share).abs()).exp() - (-(share.unsqueeze(1) + share).abs()).exp()


class PairKriging:
    """The posterior of Shapley values, given the differences between some pairs of complements, and the total.

    With x_i = 1 for present and -1 for absent players, every game is a sum over coalitions U of ``c_U prod_{i in U}
    x_i``. Its Shapley values are ``phi_i = sum over U with i, |U| odd, of 2 c_U / |U|``: they depend on the odd part
    ``o(S) = (v(S) - v(N without S)) / 2`` alone. In the prior the c_U are independent and Gaussian, with variances that
    depend on |U|. The interactions' variances add up to 1 and are distributed by ``order_variances``, those of single
    players add up to ``additivity``, and both are multiplied by an unknown scale. A pair's information about the
    interaction of three players then serves all pairs, where a regression treats interactions as noise. Most networks
    also have a part that depends on the size of S alone, with the covariance ``size_covariances``. All players share it
    equally; without it in the prior it would be mistaken for interactions.

    The posterior is averaged over all ``INTERACTIONS`` and ``ADDITIVITIES``, separately for every input and class, with
    weights proportional to the likelihood of the differences. Factorizations depend on the coalitions alone, so there
    is one for each of ``INTERACTIONS``, which all inputs and classes share.

    Reference: the theorem is OddSHAP's, arXiv:2602.01399; Gaussian processes of games: ShaplEIG, arXiv:2606.02247;
    kriging: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and 5.4. The
    combination is ours; ``docs/kriging.md`` derives the formulas.

    Args:
        coalitions: One coalition of each evaluated pair, bool (M, P).

    Example:
        One of two players is worth 1 more than the other, and both together 3.

        >>> kriging = PairKriging(torch.tensor([[True, False]]))
        >>> one, three = torch.ones(1, 1, 1, dtype=torch.float64), torch.full((1, 1), 3.0, dtype=torch.float64)
        >>> phi, stderr = kriging.fit(differences=one, total=three)
        >>> phi.flatten().round(decimals=3)
        tensor([2., 1.], dtype=torch.float64)
    """

    def __init__(self, coalitions: Bool[Tensor, "M P"]) -> None:
        everyone = torch.ones(1, coalitions.shape[1], dtype=torch.bool)
        present = torch.cat([coalitions, everyone])  # (rows, P): the last row's value makes the estimate efficient
        self.signs = 2 * present.double() - 1
        self._factorizations = [_Factorization(present, interaction) for interaction in INTERACTIONS]

    def fit(
        self, differences: Float[Tensor, "B M K"], total: Float[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B P K"], Float[Tensor, "B P K"]]:
        """Return the Shapley values and their standard errors.

        Args:
            differences: Value of each pair's coalition minus that of its complement.
            total: Value of the grand coalition minus that of the null coalition.
        """
        ((phi, stderr),) = self._averaged(differences, total, None, [0.0])
        return phi, stderr

    def fit_with(
        self,
        differences: Float[Tensor, "B M K"],
        total: Float[Tensor, "B K"],
        answer: Float[Tensor, "B P K"],
        errors: Sequence[float],
    ) -> list[tuple[Float[Tensor, "B P K"], Float[Tensor, "B P K"]]]:
        """Return the Shapley values and their standard errors, given an explainer's answer as well.

        The answer is modelled as the Shapley values plus independent errors.

        Args:
            differences: Value of each pair's coalition minus that of its complement.
            total: Value of the grand coalition minus that of the null coalition.
            answer: The explainer's values, which must be efficient.
            errors: Relative variances of the answer's error. The unit is the mean square of the values' deviations from
                the equal split, by the answer or by the evaluations, whichever is larger. The list that is returned has
                a pair of values and standard errors for each of them.
        """
        return self._averaged(differences, total, answer, errors)

    def _averaged(
        self, differences: Tensor, total: Tensor, answer: Tensor | None, errors: Sequence[float]
    ) -> list[tuple[Tensor, Tensor]]:
        (inputs, _, classes), players = differences.shape, self.signs.shape[1]
        # The prior mean of each Shapley value, (N,), where the N columns are inputs times classes.
        split = total.flatten() / players
        odd = torch.cat([differences, total.unsqueeze(1)], dim=1).transpose(0, 1).flatten(1) / 2
        odd = odd - self.signs.sum(dim=1, keepdim=True) * split / 2  # (rows, N)
        known = None if answer is None else answer.transpose(0, 1).flatten(1) - split  # (P, N)
        parts = []
        for start in range(0, odd.shape[1], _COLUMNS):
            part = slice(start, start + _COLUMNS)
            given = None if known is None else known[:, part]
            posteriors = [one for each in self._factorizations for one in each.posteriors(odd[:, part])]
            parts.append(torch.stack([_mixture(posteriors, given, error) for error in errors]))  # (errors, 2, P, n)
        found = torch.cat(parts, dim=3).unflatten(3, (inputs, classes)).transpose(2, 3)  # (errors, 2, B, P, K)
        results = []
        for change, variance in found:
            # The equal split, with a correction of rounding errors that makes the values efficient.
            gap = total.unsqueeze(1) / players - change.mean(dim=1, keepdim=True)
            results.append((change + gap, variance.sqrt()))
        return results


@dataclass(frozen=True)
class _Posterior:
    """The posterior of N columns under one candidate for the parameters of the prior.

    Attributes:
        evidence: Logarithm of the likelihood of the values, up to a constant.
        mean: Posterior mean of the Shapley values minus the equal split.
        scale: Maximum-likelihood estimate of the factor of all variances.
        variance: Posterior variance of each player's Shapley value, in units of the scale.
        covariance: Function that computes the posterior covariance (P, P), in units of the scale.
    """

    evidence: Float[Tensor, " N"]
    mean: Float[Tensor, "P N"]
    scale: Float[Tensor, " N"]
    variance: Float[Tensor, " P"]
    covariance: Callable[[], Tensor]

    def with_answer(
        self, answer: Float[Tensor, "P N"] | None, error: float
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "P N"], Float[Tensor, "P N"]]:
        """Return log evidence, mean and variances after an explainer's answer, or without it if None.

        Args:
            answer: The explainer's values minus the equal split.
            error: Relative variance of the answer's error.
        """
        if answer is None:
            return self.evidence, self.mean, self.variance.clamp_min(0).unsqueeze(1) * self.scale
        values, basis = torch.linalg.eigh(self.covariance())
        before = values.clamp_min(0).unsqueeze(1) * self.scale  # (P, N)
        # An answer whose values vary less than the evaluations suggest does not have a smaller error for that.
        spread = torch.maximum(answer.square().mean(dim=0), self.mean.square().mean(dim=0) + before.mean(dim=0))
        noise = (error * spread).clamp_min(torch.finfo(torch.float64).tiny)  # (N,)
        surprise = basis.T @ (answer - self.mean)
        evidence = self.evidence - (surprise.square() / (before + noise) + (before + noise).log()).sum(dim=0) / 2
        share = before / (before + noise)
        return evidence, self.mean + basis @ (share * surprise), basis.square() @ (share * noise)


def _mixture(posteriors: Sequence[_Posterior], answer: Tensor | None, error: float) -> Float[Tensor, "2 P N"]:
    """Return mean and variance of the mixture of the candidates' posteriors, weighted by their evidence."""
    parts = zip(*[one.with_answer(answer, error) for one in posteriors], strict=True)
    evidence, means, variances = (torch.stack(part) for part in parts)
    weights = evidence.softmax(dim=0).unsqueeze(1)  # (candidates, 1, N)
    mean = (weights * means).sum(dim=0)
    return torch.stack([mean, (weights * (variances + (means - mean).square())).sum(dim=0)])


class _Factorization:
    """The factorized prior covariance of the values of the pairs, for one interaction and the lowest additivity.

    A higher additivity adds a matrix of rank P; the Woodbury identity gives the inverse and the determinant of the sum.

    Args:
        present: One coalition of each pair, and the grand coalition in the last row.
        interaction: One of ``INTERACTIONS``.
    """

    def __init__(self, present: Bool[Tensor, "rows P"], interaction: float) -> None:
        num_players = present.shape[1]
        shares = order_variances(num_players, interaction)
        variances = shares.clone()
        variances[1] = ADDITIVITIES[0]
        by_distance = mean_products(num_players).T @ variances  # (P + 1,)
        signs = 2 * present.float() - 1  # products of small integers are exact in single precision
        covariance = by_distance[((num_players - signs @ signs.T) / 2).int()]
        by_size = _SYMMETRY * size_covariances(present)
        covariance += by_size
        covariance.diagonal().add_(_NUGGET)
        self.factor = torch.linalg.cholesky(covariance)
        # Covariance of a player's Shapley value and a coalition's value, by the number of other players absent from it.
        of_player = 2 / num_players * (mean_products(num_players - 1).T @ variances[1:])  # (P,)
        absent = num_players - present.sum(dim=1, keepdim=True) - (~present).long()
        signs = signs.double()
        of_players = signs * of_player[absent] + 2 / num_players * by_size[:, -1:]
        whitened = self._whitened(torch.cat([of_players, signs / num_players**0.5], dim=1))
        self.players, additive = whitened.split(num_players, dim=1)  # (rows, P) each
        # In this basis the additive part is diagonal, so each additivity costs only a division.
        self.eigenvalues, self.basis = torch.linalg.eigh(additive.T @ additive)
        self.additive = additive @ self.basis  # (rows, P)
        self.shared = self.players.T @ self.additive  # (P, P)
        # Posterior covariance of the players' Shapley values at the lowest additivity: the prior's minus the reduction.
        sizes = torch.arange(1, num_players + 1, dtype=torch.float64)
        equal = 4 / num_players**2 * by_size[-1, -1]
        alone = equal + 4 / num_players * (shares[1:] / sizes).sum()
        both = equal + 4 / num_players * (shares[1:] / sizes * (sizes - 1)).sum() / (num_players - 1)
        self.covariance = (alone - both) * torch.eye(num_players, dtype=torch.float64) + both
        self.covariance -= self.players.T @ self.players

    def posteriors(self, odd: Float[Tensor, "rows N"]) -> Iterator[_Posterior]:
        """Yield the posterior for each additivity, given the values of the odd part minus the prior mean."""
        rows, num_players = self.players.shape
        values = self._whitened(odd)
        along, squares = self.additive.T @ values, values.square().sum(dim=0)  # (P, N), (N,)
        mean, log_determinant = self.players.T @ values, 2 * self.factor.diagonal().log().sum()
        for additivity in ADDITIVITIES:
            added = additivity - ADDITIVITIES[0]
            lift, denominator, reached = self._terms(additivity)
            weights = (lift - added * self.shared) / denominator
            scale = (squares - (added / denominator) @ along.square()).clamp_min(0) / rows
            log_scale = scale.clamp_min(torch.finfo(torch.float64).tiny).log()
            evidence = -(rows * log_scale + log_determinant + denominator.log().sum()) / 2
            told = lift * (self.shared + reached) - reached.square() * added / denominator
            variance = self.covariance.diagonal() + 4 / num_players * additivity - told.sum(dim=1)
            covariance = partial(self._covariance, additivity)
            yield _Posterior(evidence, mean + weights @ along, scale, variance, covariance)

    def _terms(self, additivity: float) -> tuple[Float[Tensor, "P P"], Float[Tensor, " P"], Float[Tensor, "P P"]]:
        """Return three terms of the Woodbury identity for one additivity.

        They are the increase of the players' covariance with the additive part, the divisor, and that covariance.
        """
        added = additivity - ADDITIVITIES[0]
        lift = 2 * added / len(self.basis) ** 0.5 * self.basis
        return lift, 1 + added * self.eigenvalues, self.shared + lift * self.eigenvalues

    def _covariance(self, additivity: float) -> Float[Tensor, "P P"]:
        lift, denominator, reached = self._terms(additivity)
        added = additivity - ADDITIVITIES[0]
        told = self.shared @ lift.T + lift @ reached.T - (reached * added / denominator) @ reached.T
        covariance = self.covariance - told
        covariance.diagonal().add_(4 / len(covariance) * additivity)
        return (covariance + covariance.T) / 2

    def _whitened(self, columns: Float[Tensor, "rows N"]) -> Float[Tensor, "rows N"]:
        return torch.linalg.solve_triangular(self.factor, columns, upper=False)


class Kriging(PairEstimator):
    """Gaussian-process regression on pairs, which models interactions instead of averaging them out.

    Every estimate is efficient, and values are exact once all pairs are evaluated. Standard errors are those of the
    posterior: they are right if the game is a plausible draw from the prior. Those of ``KernelSHAP`` rest on the random
    draw of the pairs instead, and hold for every game.

    Reference: see ``PairKriging``.

    Args:
        game: The game to explain.
        inputs: Inputs of the game, one per entry of the first axis.
        seed: Seed for drawing coalitions.

    Example:
        Player 0 has a left glove, players 1 and 2 a right one each; a pair of gloves is worth 1.

        >>> from fastshap_lab.shapley import FunctionGame
        >>> def gloves(inputs, present):
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> estimator = Kriging(FunctionGame(gloves, 3), torch.zeros(1, 1))
        >>> estimator.advance(6)
        >>> estimator.estimate().phi.flatten()
        tensor([0.6667, 0.1667, 0.1667], dtype=torch.float64)
    """

    allocation = "mixed"

    @classmethod
    def check_budget(cls, num_players: int, budget: int) -> None:
        """Raise a ``UserError`` if the budget has more pairs than can be factorized, but not all pairs."""
        if MAX_PAIRS < budget // 2 < num_pairs(num_players):
            otherwise = f"or all {2 * num_pairs(num_players):,}" if num_players <= 20 else "choose kernel_shap for more"
            raise UserError(
                f"budget={budget}: kriging can use at most {2 * MAX_PAIRS:,} evaluations of {num_players} players, "
                f"{otherwise}"
            )

    @classmethod
    def next_look(cls, num_players: int, wanted: int, budget: int) -> int:
        """Return the number of evaluations of the next check; past what can be factorized it is the whole budget."""
        return min(wanted, budget) if wanted // 2 <= MAX_PAIRS else budget

    def estimate(self) -> Estimate:
        """Return the posterior mean and standard deviation of the Shapley values."""
        return self._estimates(None, [0.0])[0]

    def refine(self, answer: Float[Tensor, "B P K"], errors: Sequence[float]) -> list[Estimate]:
        """Return the posterior given the evaluations and an explainer's answer, once for each of ``errors``.

        Args:
            answer: The explainer's values, which are made efficient first.
            errors: Relative variances of the answer's error, see ``PairKriging.fit_with``.
        """
        return self._estimates(additive_normalization(answer.cpu().double(), self.grand, self.null), errors)

    def _estimates(self, answer: Tensor | None, errors: Sequence[float]) -> list[Estimate]:
        total, pairs = self.grand - self.null, self.differences.shape[1]
        start = equal_split(self.grand, self.null, self.num_players) if answer is None else answer
        if self.complete or not pairs:
            phi = PairRegression(self.design()).fit(self.differences, start)[0] if pairs else start.clone()
            stderr = torch.full_like(phi, 0.0 if self.complete else math.inf)
            return [Estimate(phi, stderr, self.evaluations)] * len(errors)
        self.check_budget(self.num_players, 2 * pairs)
        make = _remembered if pairs <= _REMEMBERED else _kriging
        kriging = make(self.num_players, pairs, self.allocation, self.seed)
        if answer is None:
            fits = [kriging.fit(self.differences, total)]
        else:
            fits = kriging.fit_with(self.differences, total, answer, errors)
        return [Estimate(phi, self._not_certain(stderr, 1 / (pairs + 1)), self.evaluations) for phi, stderr in fits]


def _kriging(num_players: int, pairs: int, allocation: str, seed: int) -> PairKriging:
    return PairKriging(pair_design(num_players, pairs, allocation, seed).coalitions)


_remembered = lru_cache(maxsize=4)(_kriging)
