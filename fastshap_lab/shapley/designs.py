"""Designs: which pairs of complementary coalitions to evaluate for a regression, and the weight of each pair."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache, partial

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from fastshap_lab.seeding import derive_seed
from fastshap_lab.shapley.coalitions import random_coalitions
from fastshap_lab.shapley.game import check_players

# Number of pairs per player that ``mixed_allocation`` allocates by the Shapley kernel.
_KERNEL_FIRST = 3

# A stratum of up to this many pairs is listed and shuffled as a whole. From a larger one coalitions are drawn, and the
# rare repetitions are discarded.
_LISTED = 2**17


@dataclass(frozen=True)
class PairDesign:
    """Distinct coalitions that are each evaluated together with their complement.

    The pairs whose smaller coalition has the same size form a stratum, and each stratum is sampled separately.

    Attributes:
        coalitions: The smaller coalition of each pair, with at most half of the players, bool (M, P).
        stratum: Stratum of each pair, which is the size of the smaller coalition minus one, int64 (M,).
        weights: Weight of each pair in the regression, float64 (M,). A weighted sum over the design estimates the sum
            over all pairs under the Shapley kernel, whose total mass is 1.
        sampled: Share of the pairs of each pair's stratum that are in the design, float64 (M,).
        remaining: Share of the kernel's mass that falls on pairs outside the design; 0 if the design has all pairs.

    Example:
        Three players have three pairs, each of a single player and the two others.

        >>> design = pair_design(num_players=3, pairs=3, allocation="kernel", seed=0)
        >>> design.coalitions.sum(dim=1), design.remaining
        (tensor([1, 1, 1]), 0.0)
    """

    coalitions: Bool[Tensor, "M P"]
    stratum: Int[Tensor, " M"]
    weights: Float[Tensor, " M"]
    sampled: Float[Tensor, " M"]
    remaining: float

    @property
    def relative_weights(self) -> Float[Tensor, " M"]:
        """The weights, scaled to a mean of 1."""
        return self.weights / self.weights.mean()


def num_pairs(num_players: int) -> int:
    """Return the number of pairs of complementary coalitions, without the pair of the empty and the full coalition.

    Args:
        num_players: Number of players P.

    Example:
        >>> num_pairs(4)
        7
    """
    return 2 ** (num_players - 1) - 1


def pairs_by_size(num_players: int) -> list[int]:
    """Return the number of pairs whose smaller coalition has size 1 … P // 2, as exact integers of any size.

    Args:
        num_players: Number of players P.

    Example:
        >>> pairs_by_size(4)
        [4, 3]
    """
    sizes = range(1, num_players // 2 + 1)
    return [math.comb(num_players, size) // (2 if 2 * size == num_players else 1) for size in sizes]


def kernel_allocation(num_players: int) -> Float[np.ndarray, " strata"]:
    """Return the Shapley kernel's mass on the pairs whose smaller coalition has size 1 … P // 2; the sum is 1.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874; Covert and Lee, AISTATS 2021, arXiv:2012.01536.

    Args:
        num_players: Number of players P.

    Example:
        Sizes 1 and 3 have masses in the ratio 2/3 : 1/4 to size 2.

        >>> kernel_allocation(4).round(4).tolist()
        [0.7273, 0.2727]
    """
    sizes = np.arange(1, num_players // 2 + 1)
    mass = np.where(2 * sizes == num_players, 1, 2) / (sizes * (num_players - sizes))
    return mass / mass.sum()


def leverage_allocation(num_players: int) -> Float[np.ndarray, " strata"]:
    """Return the share of the leverage scores on the pairs whose smaller coalition has size 1 … P // 2; the sum is 1.

    The leverage scores of all coalitions of one size add up to the same number for every size.

    Reference: Musco and Witter, Provably accurate Shapley value estimation via leverage score sampling, ICLR 2025,
    arXiv:2410.01917, theorem 3.1.

    Args:
        num_players: Number of players P.

    Example:
        The pairs of size 1 hold the sizes 1 and 3, those of size 2 only this size.

        >>> leverage_allocation(4).round(4).tolist()
        [0.6667, 0.3333]
    """
    sizes = np.arange(1, num_players // 2 + 1)
    mass = np.where(2 * sizes == num_players, 1.0, 2.0)
    return mass / mass.sum()


def mixed_allocation(num_players: int, pairs: float) -> Float[np.ndarray, " strata"]:
    """Return the expected number of pairs of each size 1 … P // 2; beyond the first pairs, middle sizes get more.

    Small coalitions inform about the effects of single players, coalitions of middle size about interactions. The first
    ``3 P`` pairs are allocated by the Shapley kernel, and the others by the geometric mean of kernel and leverage
    scores: some networks were served better by more pairs of middle size, others by fewer.

    Args:
        num_players: Number of players P.
        pairs: Number of all pairs.

    Example:
        >>> mixed_allocation(4, pairs=5.0).round(4).tolist()
        [3.6364, 1.3636]
    """
    first = min(pairs, _KERNEL_FIRST * num_players)
    kernel, leverage = kernel_allocation(num_players), leverage_allocation(num_players)
    between = np.sqrt(kernel * leverage)
    return first * kernel + (pairs - first) * between / between.sum()


# Functions of the number of players and the number of all pairs that return the expected number of pairs of each size.
ALLOCATIONS: dict[str, Callable[[int, float], Float[np.ndarray, " strata"]]] = {
    "kernel": lambda num_players, pairs: pairs * kernel_allocation(num_players),
    "leverage": lambda num_players, pairs: pairs * leverage_allocation(num_players),
    "mixed": mixed_allocation,
}


@lru_cache(maxsize=8)  # an estimator looks up the same design several times
def pair_design(num_players: int, pairs: int, allocation: str, seed: int) -> PairDesign:
    """Return a design of a number of pairs that are drawn without replacement.

    The allocation gives the expected number of pairs of each stratum, at most the whole stratum; it is rounded at
    random without bias. A larger design of the same seed contains the smaller one: a stratum's pairs have a fixed
    order, of which a design takes the first ones.

    Args:
        num_players: Number of players P, at least 2.
        pairs: Number of pairs to draw; the design has all pairs where there are not more.
        allocation: Entry of ``ALLOCATIONS``.
        seed: Seed for drawing coalitions.

    Raises:
        UserError: There are fewer than two players.

    Example:
        >>> design = pair_design(num_players=6, pairs=10, allocation="kernel", seed=0)
        >>> design.coalitions.shape, int(design.coalitions.sum(dim=1).max()) <= 3
        (torch.Size([10, 6]), True)
    """
    check_players(num_players)
    sizes = np.arange(1, num_players // 2 + 1)
    members = pairs_by_size(num_players)
    available = np.array([min(count, 2**62) for count in members], dtype=np.float64)
    share = partial(ALLOCATIONS[allocation], num_players)
    offsets = _generator(seed, "counts").random(len(sizes))
    expected, counts = _allocate(share, available, min(pairs, num_pairs(num_players)), offsets)
    mass, coalitions = kernel_allocation(num_players), []
    for size, count, stratum_size in zip(sizes, counts, members, strict=True):
        coalitions.append(_without_replacement(num_players, int(size), int(count), stratum_size, seed))
    stratum = torch.from_numpy(np.repeat(np.arange(len(sizes)), counts))
    # A stratum without expected pairs has no pairs; the bound only avoids a division by zero.
    per_pair = torch.from_numpy(mass / np.maximum(expected, np.finfo(np.float64).tiny))
    sampled = torch.from_numpy(counts / available)
    remaining = float(mass @ (1 - counts / available))
    return PairDesign(torch.cat(coalitions), stratum, per_pair[stratum], sampled[stratum], remaining)


def _allocate(
    share: Callable[[float], np.ndarray], available: Float[np.ndarray, " strata"], pairs: int, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected and the drawn number of pairs in each stratum; both add up to ``pairs``.

    Args:
        share: Maps a number of pairs to the allocation's expected number in each stratum.
        available: Number of all pairs in each stratum.
        pairs: Number of pairs to draw.
        offsets: Uniform draws from [0, 1), one per stratum, for rounding.
    """

    def expected(scale: float) -> np.ndarray:
        return np.minimum(share(scale), available)

    def drawn(scale: float) -> np.ndarray:
        return np.minimum(np.floor(share(scale) + offsets), available)

    # Both grow with the scale. The drawn numbers grow by one pair at a time, so a larger design contains this one.
    counts = drawn(_smallest_scale(drawn, pairs))
    # The expected number of a complete stratum is its actual number.
    return np.where(counts == available, available, expected(_smallest_scale(expected, pairs))), counts.astype(np.int64)


def _smallest_scale(counts: Callable[[float], np.ndarray], pairs: int) -> float:
    low, high = 0.0, 1.0
    while counts(high).sum() < pairs * (1 - 1e-12):
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if counts(middle).sum() >= pairs * (1 - 1e-12) else (middle, high)
    return high


def _without_replacement(num_players: int, size: int, count: int, members: int, seed: int) -> Bool[Tensor, "count P"]:
    """Return the first ``count`` pairs of a stratum in the seed's order, each by its coalition of the given size."""
    halves = 2 * size == num_players  # both coalitions have this size: the one without the last player is returned
    if members <= _LISTED:
        ranks = _generator(seed, "order", size).permutation(members)[:count]
        return unrank(torch.from_numpy(ranks), num_players, size)
    generator = torch.Generator().manual_seed(derive_seed(seed, "members", size))
    drawn = torch.empty(0, num_players, dtype=torch.bool)
    while len(drawn) < count:  # blocks have a fixed size, so that the count changes no draw
        block = random_coalitions(torch.full((256,), size), num_players, generator)
        if halves:
            block ^= block[:, -1:].clone()
        drawn = torch.cat([drawn, block])
        _, first = np.unique(np.packbits(drawn.numpy(), axis=1), axis=0, return_index=True)
        drawn = drawn[torch.from_numpy(np.sort(first))]
    return drawn[:count]


def unrank(ranks: Int[Tensor, " N"], num_players: int, size: int) -> Bool[Tensor, "N P"]:
    """Return the coalitions of one size that have the given ranks in colexicographic order.

    In this order the coalitions without the last player come first.

    Reference: Knuth, The Art of Computer Programming 4A, section 7.2.1.3, on the combinatorial number system.

    Args:
        ranks: Ranks, int64, from 0 to the number of coalitions of this size minus one.
        num_players: Number of players P.
        size: Number of present players.

    Example:
        >>> unrank(torch.arange(3), num_players=3, size=2).int()
        tensor([[1, 1, 0],
                [1, 0, 1],
                [0, 1, 1]], dtype=torch.int32)
    """
    below = _binomials(num_players, size)  # (P, size + 1)
    left, wanted = ranks.clone(), torch.full_like(ranks, size)
    coalitions = torch.zeros(len(ranks), num_players, dtype=torch.bool)
    for player in reversed(range(num_players)):
        threshold = below[player][wanted]
        taken = (wanted > 0) & (left >= threshold)
        coalitions[:, player] = taken
        left -= torch.where(taken, threshold, 0)
        wanted -= taken.long()
    return coalitions


@cache
def _binomials(num_players: int, size: int) -> Int[Tensor, "P sizes"]:
    table = [[min(math.comb(player, k), 2**62) for k in range(size + 1)] for player in range(num_players)]
    return torch.tensor(table)


def _generator(seed: int, *purpose: str | int) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, *purpose))
