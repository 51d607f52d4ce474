"""Stratified Monte Carlo over coalition sizes, in which every coalition informs about every player."""

import math

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from fastshap_lab.seeding import derive_seed
from fastshap_lab.shapley.designs import pairs_by_size, unrank
from fastshap_lab.shapley.efficiency import equal_split
from fastshap_lab.shapley.estimators.base import Estimate, SequentialEstimator
from fastshap_lab.shapley.game import Game

# Share of the singletons' additive game that is subtracted from all other coalitions. Subtracting all of it would
# make an additive game exact, but multiply the errors of games in which singletons say nothing about larger coalitions.
# The error is quadratic in the share, so with one half it is never above the mean of the errors with 0 and with 1.
_TAKEN_OUT = 0.5

# The pairs of a stratum of up to this size are taken in a random order; those of larger strata are drawn independently.
_LISTED = 2**18


class Stratified(SequentialEstimator):
    """Averages the differences between coalitions and their complements, separately for each size and each player.

    With ``d(S) = v(S) - v(N without S)``, Shapley values are ``(v(grand) - v(null) + sum over sizes h = 1 … P-1 of the
    mean of d over the coalitions of size h with the player) / P``. A pair of complements serves sizes h and P-h at
    once: their two means add up to ``E[d w]`` over the pairs of a stratum, with ``w = P / h`` for the h members of the
    smaller side and ``-P / (P-h)`` for all others. Singletons are enumerated first. They define an additive game, whose
    Shapley values are known; half of it is subtracted from all other coalitions. The other strata share the budget as
    if their differences had the same variance. The values are efficient for every budget, unbiased, and exact once all
    pairs are evaluated (up to 20 players).

    Reference: Kolpaczki et al., Approximating the Shapley value without marginal contributions, AAAI 2024,
    arXiv:2302.00736, section 5, Stratified SVARM. Differs from the paper: complements, the subtracted game, draws
    without replacement; and strata are centered by the mean of all their pairs rather than by the means of those with
    and without the player, which needs no sample of each and keeps the values efficient.

    Args:
        game: The game to explain.
        inputs: Inputs of the game, one per entry of the first axis.
        seed: Seed for drawing coalitions.

    Example:
        Player 0 has a left glove, players 1 and 2 a right one each; a pair of gloves is worth 1.

        >>> from fastshap_lab.shapley import FunctionGame
        >>> def gloves(inputs, present):
        ...     return (present[..., :1] & present[..., 1:].any(dim=2, keepdim=True)).double()
        >>> estimator = Stratified(FunctionGame(gloves, 3), torch.zeros(1, 1))
        >>> estimator.advance(6)
        >>> estimator.estimate().phi.flatten()
        tensor([0.6667, 0.1667, 0.1667], dtype=torch.float64)
    """

    sample_size = 2
    _evidence = ("_slopes", "_first", "_number", "_sums", "_squares")

    def __init__(self, game: Game, inputs: Shaped[Tensor, "B ..."], seed: int = 0) -> None:
        super().__init__(game, inputs, seed)
        players, (number, classes) = self.num_players, self.grand.shape
        self.sizes = torch.arange(1, players // 2 + 1)
        self.halves = 2 * self.sizes == players  # both coalitions of such a pair have this size, and either may come
        pairs = pairs_by_size(players)
        self.pairs = torch.tensor([n if n <= _LISTED else math.inf for n in pairs], dtype=torch.float64)
        self._orders: dict[int, Tensor] = {}
        strata = len(pairs)
        self._slopes = self.grand.new_zeros(number, players, classes)  # the singletons' additive game; the sum is 0
        # For each stratum: its first difference, which is subtracted from all its differences to keep digits, and
        # counts, sums and sums of squares of these over the pairs with each player and, in the last place, over all.
        self._first = self.grand.new_zeros(number, strata, 1, classes)
        self._number = self.grand.new_zeros(strata, players + 1)
        self._sums = self.grand.new_zeros(number, strata, players + 1, classes)
        self._squares = torch.zeros_like(self._sums)

    @classmethod
    def smallest_budget(cls, num_players: int) -> int:
        """Return the number of evaluations of all singletons and of two pairs of every other size."""
        singletons, *others = pairs_by_size(num_players)
        return 2 * (singletons + sum(min(pairs, 2) for pairs in others))

    @property
    def max_samples(self) -> int | None:
        """Number of all pairs of complements, or None if some stratum is too large to be listed."""
        return None if self.pairs.isinf().any() else 2 ** (self.num_players - 1) - 1

    def estimate(self) -> Estimate:
        """Return the values; with two pairs of every size their errors are known, before only singletons are used."""
        # The slopes count in all sizes for the part that was subtracted, and for the rest in the singletons' two sizes.
        share = _TAKEN_OUT + (1 - _TAKEN_OUT) * min(1, 2 / (self.num_players - 1))
        known = equal_split(self.grand, self.null, self.num_players) + share * self._slopes
        sampled = slice(1, None)  # singletons are complete, and counted in ``known``
        number, pairs, halves = self._number[sampled, -1], self.pairs[sampled], self.halves[sampled]
        if self._number[0, -1] < self.pairs[0] or (number < torch.minimum(pairs, torch.tensor(2))).any():
            return Estimate(known, torch.full_like(known, math.inf), self.evaluations)

        def by_stratum(value: Tensor) -> Tensor:
            return value.view(-1, 1, 1)

        count, sums, squares = self._number[sampled, :, None], self._sums[:, sampled], self._squares[:, sampled]
        # The mean of a stratum of halves is not subtracted: the sign of a difference depends on an arbitrary choice.
        mean = sums[:, :, -1:] / by_stratum(number) * by_stratum(~halves)
        squares = (squares - 2 * mean * sums + mean.square() * count).clamp_min(0)
        sums = sums - mean * count
        inside = by_stratum(self.num_players / self.sizes[sampled].double())
        outside = by_stratum(self.num_players / (self.num_players - self.sizes[sampled].double()))
        products = inside * sums[:, :, :-1] - outside * (sums[:, :, -1:] - sums[:, :, :-1])
        products_squared = inside**2 * squares[:, :, :-1] + outside**2 * (squares[:, :, -1:] - squares[:, :, :-1])
        # A pair of halves counts for one size, any other for two; subtracting a sample's mean costs a degree of
        # freedom.
        factor = by_stratum(torch.where(halves, 0.5 / number, (1 - 1 / pairs) / (number - 1))) / self.num_players
        terms, n = factor * products, by_stratum(number)
        spread = (n * factor.square() * products_squared - terms.square()).clamp_min(0)
        variance = by_stratum(1 - number / pairs) * spread / (n - 1).clamp_min(1)
        stderr = variance.sum(dim=1).sqrt()
        if not self.complete:
            stderr = self._not_certain(stderr, 1 / (self.num_samples + 1))
        return Estimate(known + terms.sum(dim=1), stderr, self.evaluations)

    def _samples(self, start: int, stop: int) -> Bool[Tensor, "N M P"]:
        stratum, place = self._schedule(stop - start)
        chosen = torch.empty(stop - start, self.num_players, dtype=torch.bool)
        for index in stratum.unique().tolist():
            mine = stratum == index
            chosen[mine] = self._smaller_sides(index, place[mine])
        return torch.stack([chosen, ~chosen], dim=1)

    def _learn(self, start: int, samples: Bool[Tensor, "N M P"], values: Float[Tensor, "B N M K"]) -> None:
        players, chosen = self.num_players, samples[:, 0]
        differences = values[:, :, 0] - values[:, :, 1]
        stratum = chosen.sum(dim=1) - 1
        single = stratum == 0
        weights = (chosen[single].double() - 1 / players) * players / (2 * self.pairs[0])
        self._slopes = self._slopes + weights.T @ differences[:, single]
        left = differences - _TAKEN_OUT * (2 * chosen.double() - 1) @ self._slopes
        members = torch.cat([chosen, torch.ones_like(chosen[:, :1])], dim=1).double()  # (N, P + 1)
        for index in stratum.unique().tolist():
            mine = stratum == index
            if not self.halves[index] and not self._number[index, -1]:
                self._first[:, index] = left[:, mine][:, :1]
            centered = left[:, mine] - self._first[:, index]
            self._number[index] += members[mine].sum(dim=0)
            self._sums[:, index] += members[mine].T @ centered
            self._squares[:, index] += members[mine].T @ centered.square()

    def _schedule(self, number: int) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
        """Return strata and places of the next pairs: all singletons, two of every size, then each size at its rate."""
        rates = 1 / (self.sizes * (self.num_players - self.sizes)).double().sqrt() / (1 + self.halves.double())
        strata, places, times = [], [], []
        for stratum, done in enumerate(self._number[:, -1].tolist()):
            place = torch.arange(done, min(self.pairs[stratum].item(), done + number), dtype=torch.float64)
            times.append(
                torch.where(place < 2, place - 2, (place + 0.5) / rates[stratum]) if stratum else place - math.inf
            )
            places.append(place.long())
            strata.append(torch.full_like(places[-1], stratum))
        first = torch.cat(times).argsort(stable=True)[:number]
        return torch.cat(strata)[first], torch.cat(places)[first]

    def _smaller_sides(self, stratum: int, places: Int[Tensor, " N"]) -> Bool[Tensor, "N P"]:
        """Return the smaller coalitions of the pairs that have these places in the seed's order of a stratum."""
        size, purpose = stratum + 1, (self.seed, type(self).__name__, stratum)
        if self.pairs[stratum].isinf():
            seeds = [derive_seed(*purpose, place) for place in places.tolist()]
            orders = [torch.randperm(self.num_players, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
            return torch.stack(orders) < size  # a random order is also a random rank of each player
        if stratum not in self._orders:
            generator = torch.Generator().manual_seed(derive_seed(*purpose))
            self._orders[stratum] = torch.randperm(int(self.pairs[stratum]), generator=generator)
        return unrank(self._orders[stratum][places], self.num_players, size)
