"""Kriging: Shapley values by Gaussian-process regression on the part of a game that they depend on."""

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

# What the prior is averaged over, see ``PairKriging``. The largest interaction is nearly white noise.
INTERACTIONS = (0.05, 0.2, 0.45, 0.8)
ADDITIVITIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)

# Pairs whose covariance is factorized, once for each interaction. So many take 2.2 GB and some seconds; both grow, with
# the square and with the cube.
MAX_PAIRS = 8192

# Variance of what depends on a coalition's size alone, as a share of the interactions'.
_SYMMETRY = 0.3

# Variance of an error that values are taken to have, as a share of the interactions': it keeps factorizations stable.
_NUGGET = 1e-8

# Columns (inputs times classes) that are worked on at a time, which bounds the memory.
_COLUMNS = 1024

# Pairs up to which factorizations are remembered, since inputs are often explained one by one: 40 to 220 MB each.
_REMEMBERED = 1024


def order_variances(num_players: int, interaction: float) -> Float[Tensor, " orders"]:
    """Return the share of the interactions' variance that coalitions of each size 0 … P have; they add up to 1.

    Only odd sizes from 3 on have one: of single players the prior knows more, and even sizes do not matter. With two
    players there are none.

    Args:
        num_players: P.
        interaction: Variance of one coefficient of size u + 1 relative to one of size u, above 0 and below 1.
    """
    sizes = torch.arange(num_players + 1, dtype=torch.float64)
    odd = (sizes % 2 == 1) & (sizes >= 3)
    if not bool(odd.any()):
        return torch.zeros_like(sizes)
    # In logarithms: there are too many coalitions for a float.
    log_count = -torch.lgamma(sizes + 1) - torch.lgamma(num_players - sizes + 1)
    return (log_count + sizes * math.log(interaction)).masked_fill(~odd, -torch.inf).softmax(dim=0)


@lru_cache(maxsize=16)
def mean_products(num_players: int) -> Float[Tensor, "sizes distances"]:
    """Return the mean of ``prod_{i in U} x_i y_i`` over all U of a size 0 … P, by the distance 0 … P of x and y.

    These are Krawtchouk polynomials divided by their values at distance 0, so that none is larger than 1. For more
    than half of the players the recurrence would lose all digits; there ``p[P - u](h) = (-1)^h p[u](h)``.
    """
    distances = torch.arange(num_players + 1, dtype=torch.float64)
    rows = [torch.ones_like(distances), 1 - 2 * distances / max(num_players, 1)]
    for size in range(1, num_players // 2):
        rows.append(((num_players - 2 * distances) * rows[size] - size * rows[size - 1]) / (num_players - size))
    lower = torch.stack(rows[: num_players // 2 + 1])
    return torch.cat([lower, ((1 - 2 * (distances % 2)) * lower[: (num_players + 1) // 2]).flip(0)])


def size_covariances(present: Bool[Tensor, "rows P"]) -> Float[Tensor, "rows rows"]:
    """Return the covariance of values of the odd part that depend on the size of a coalition alone.

    With u and v the sizes of two coalitions, from -1 for nobody to 1 for everybody, ``exp(-|u - v|) - exp(-|u + v|)``:
    what is odd of an Ornstein-Uhlenbeck process.
    """
    share = 2 * present.double().mean(dim=1) - 1
    return (-(share.unsqueeze(1) - share).abs()).exp() - (-(share.unsqueeze(1) + share).abs()).exp()


class PairKriging:
    """The posterior of Shapley values, given the differences of some pairs of complements, and the total.

    With x_i = 1 for present and -1 for absent players, every game is a sum over coalitions U of ``c_U prod_{i in U}
    x_i``. Its Shapley values are ``phi_i = sum over U with i, |U| odd, of 2 c_U / |U|``, those of its odd part ``o(S) =
    (v(S) - v(N without S)) / 2``. The prior takes the c_U to be independent and Gaussian, with variances that depend on
    |U| alone: of all that the odd part varies, interactions have 1, shared out by ``order_variances``, and single
    players ``additivity``; both times an unknown scale. What one pair tells about triples of players then serves all
    pairs that hold them, where a regression takes interactions for noise. A part that depends on the size of S alone,
    which most networks have, adds ``size_covariances``: all players share it equally, and without it would be taken for
    interactions.

    The posterior is averaged over all ``INTERACTIONS`` and ``ADDITIVITIES``, each counting as much as it makes the
    evidence likely, for every input and class by itself. Factorizations depend on the coalitions alone and serve all of
    them: one for each of ``INTERACTIONS``.

    Reference: the theorem is OddSHAP's, arXiv:2602.01399; Gaussian processes of games: ShaplEIG, arXiv:2606.02247;
    kriging: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and 5.4. Combined by
    us; ``docs/kriging.md`` derives the formulas.

    Args:
        coalitions: One of each evaluated pair, bool (M, P).
    """

    def __init__(self, coalitions: Bool[Tensor, "M P"]) -> None:
        everyone = torch.ones(1, coalitions.shape[1], dtype=torch.bool)
        present = torch.cat([coalitions, everyone])  # (rows, P): the last row's value makes answers efficient
        self.signs = 2 * present.double() - 1
        self._factorizations = [_Factorization(present, interaction) for interaction in INTERACTIONS]

    def fit(
        self, differences: Float[Tensor, "B M K"], total: Float[Tensor, "B K"]
    ) -> tuple[Float[Tensor, "B P K"], Float[Tensor, "B P K"]]:
        """Return the Shapley values and their standard errors.

        Args:
            differences: Value of each pair's coalition less that of its complement.
            total: Value of the grand coalition less that of the null coalition.
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
        """Return the same where an explainer's answer is evidence, too: the Shapley values plus independent errors.

        Args:
            differences: See ``fit``.
            total: See ``fit``.
            answer: Efficient values.
            errors: Variances of the answer's error, relative to the mean square of its deviations from the equal split,
                or of what the evaluations tell of these, whichever is larger; each makes a pair of values and
                standard errors.
        """
        return self._averaged(differences, total, answer, errors)

    def _averaged(
        self, differences: Tensor, total: Tensor, answer: Tensor | None, errors: Sequence[float]
    ) -> list[tuple[Tensor, Tensor]]:
        (inputs, _, classes), players = differences.shape, self.signs.shape[1]
        split = total.flatten() / players  # (N,) of N columns, inputs times classes: what the prior expects of everyone
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
            gap = total.unsqueeze(1) / players - change.mean(dim=1, keepdim=True)  # the split, but for rounding
            results.append((change + gap, variance.sqrt()))
        return results


@dataclass(frozen=True)
class _Posterior:
    """What one candidate says about N columns.

    Attributes:
        evidence: Logarithm of the likelihood of the values, but for a constant.
        mean: Shapley values less the equal split.
        scale: The likeliest factor of all variances.
        variance: Variance of each player's Shapley value, in units of the scale.
        covariance: Computes the covariance (P, P) of all of them, in units of the scale.
    """

    evidence: Float[Tensor, " N"]
    mean: Float[Tensor, "P N"]
    scale: Float[Tensor, " N"]
    variance: Float[Tensor, " P"]
    covariance: Callable[[], Tensor]

    def with_answer(
        self, answer: Float[Tensor, "P N"] | None, error: float
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "P N"], Float[Tensor, "P N"]]:
        """Return evidence, mean and variances, once an answer with an error of its own is known, too."""
        if answer is None:
            return self.evidence, self.mean, self.variance.clamp_min(0).unsqueeze(1) * self.scale
        values, basis = torch.linalg.eigh(self.covariance())
        before = values.clamp_min(0).unsqueeze(1) * self.scale  # (P, N)
        # An answer that is flatter than the evaluations allow is no better known for that.
        spread = torch.maximum(answer.square().mean(dim=0), self.mean.square().mean(dim=0) + before.mean(dim=0))
        noise = (error * spread).clamp_min(torch.finfo(torch.float64).tiny)  # (N,)
        surprise = basis.T @ (answer - self.mean)
        evidence = self.evidence - (surprise.square() / (before + noise) + (before + noise).log()).sum(dim=0) / 2
        share = before / (before + noise)
        return evidence, self.mean + basis @ (share * surprise), basis.square() @ (share * noise)


def _mixture(posteriors: Sequence[_Posterior], answer: Tensor | None, error: float) -> Float[Tensor, "2 P N"]:
    """Return mean and variance over the candidates, each as likely as it makes the evidence."""
    parts = zip(*[one.with_answer(answer, error) for one in posteriors], strict=True)
    evidence, means, variances = (torch.stack(part) for part in parts)
    weights = evidence.softmax(dim=0).unsqueeze(1)  # (candidates, 1, N)
    mean = (weights * means).sum(dim=0)
    return torch.stack([mean, (weights * (variances + (means - mean).square())).sum(dim=0)])


class _Factorization:
    """The prior covariance of values at the pairs for one interaction and the lowest additivity, factorized.

    A higher additivity adds a matrix of rank P, of which the Woodbury identity gives inverse and determinant.
    """

    def __init__(self, present: Bool[Tensor, "rows P"], interaction: float) -> None:
        num_players = present.shape[1]
        shares = order_variances(num_players, interaction)
        variances = shares.clone()
        variances[1] = ADDITIVITIES[0]
        by_distance = mean_products(num_players).T @ variances  # (P + 1,)
        signs = 2 * present.float() - 1  # small integers, which single precision multiplies exactly
        covariance = by_distance[((num_players - signs @ signs.T) / 2).int()]
        by_size = _SYMMETRY * size_covariances(present)
        covariance += by_size
        covariance.diagonal().add_(_NUGGET)
        self.factor = torch.linalg.cholesky(covariance)
        # Covariance of a player's Shapley value and a coalition's value, by how many of the other players are absent.
        of_player = 2 / num_players * (mean_products(num_players - 1).T @ variances[1:])  # (P,)
        absent = num_players - present.sum(dim=1, keepdim=True) - (~present).long()
        signs = signs.double()
        of_players = signs * of_player[absent] + 2 / num_players * by_size[:, -1:]
        whitened = self._whitened(torch.cat([of_players, signs / num_players**0.5], dim=1))
        self.players, additive = whitened.split(num_players, dim=1)  # (rows, P) each
        # In the basis in which the additive part's evidence is diagonal, every additivity is a division.
        self.eigenvalues, self.basis = torch.linalg.eigh(additive.T @ additive)
        self.additive = additive @ self.basis  # (rows, P)
        self.shared = self.players.T @ self.additive  # (P, P)
        # Prior covariance of two players' Shapley values less what the values tell at the lowest additivity.
        sizes = torch.arange(1, num_players + 1, dtype=torch.float64)
        equal = 4 / num_players**2 * by_size[-1, -1]
        alone = equal + 4 / num_players * (shares[1:] / sizes).sum()
        both = equal + 4 / num_players * (shares[1:] / sizes * (sizes - 1)).sum() / (num_players - 1)
        self.covariance = (alone - both) * torch.eye(num_players, dtype=torch.float64) + both
        self.covariance -= self.players.T @ self.players

    def posteriors(self, odd: Float[Tensor, "rows N"]) -> Iterator[_Posterior]:
        """Yield what each additivity says, from values of the odd part less the prior's mean."""
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
        """Return what the players' covariance with the values gains, Woodbury's divisor, and that covariance."""
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
    """Gaussian-process regression on pairs, which learns from interactions instead of averaging them out.

    Every estimate adds up to the total; once all pairs are in, values are exact. Standard errors are the posterior's:
    they hold as far as the game looks like one that the prior might have drawn. They are no bounds that a sampling
    design guarantees, which those of ``KernelSHAP`` are.

    Reference: see ``PairKriging``.

    Example:
        >>> from fastshap_lab.shapley import FunctionGame
        >>> worth = torch.tensor([[3.0], [2.0], [1.0]]).double()
        >>> game = FunctionGame(lambda inputs, present: present.double() @ worth, 3)
        >>> estimator = Kriging(game, torch.zeros(1, 1))
        >>> estimator.advance(6)
        >>> [round(value, 4) for value in estimator.estimate().phi.flatten().tolist()]
        [3.0, 2.0, 1.0]
    """

    allocation = "mixed"

    @classmethod
    def check_budget(cls, num_players: int, budget: int) -> None:
        """Raise a ``UserError`` if the budget makes more pairs than can be factorized, and fewer than there are."""
        if MAX_PAIRS < budget // 2 < num_pairs(num_players):
            otherwise = f"or all {2 * num_pairs(num_players):,}" if num_players <= 20 else "take kernel_shap for more"
            raise UserError(
                f"budget={budget}: kriging makes use of {2 * MAX_PAIRS:,} evaluations of {num_players} players at "
                f"most, {otherwise}"
            )

    @classmethod
    def next_look(cls, num_players: int, wanted: int, budget: int) -> int:
        """Return where to look at a tolerance next: where more cannot be made use of, not before all pairs are in."""
        return min(wanted, budget) if wanted // 2 <= MAX_PAIRS else budget

    def estimate(self) -> Estimate:
        """Return the posterior."""
        return self._estimates(None, [0.0])[0]

    def refine(self, answer: Float[Tensor, "B P K"], errors: Sequence[float]) -> list[Estimate]:
        """Return the posterior with an explainer's answer as further evidence, once for each of ``errors``.

        Args:
            answer: The explainer's values; made efficient first.
            errors: See ``PairKriging.fit_with``.
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
