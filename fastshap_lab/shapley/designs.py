"""Designs: which pairs of coalitions to evaluate for a regression, and what each of them counts."""

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

# Pairs per player that ``mixed_allocation`` shares out as the kernel does.
_KERNEL_FIRST = 3

# Strata of up to so many pairs are put in a random order as a whole; of larger ones, members are drawn, and the rare
# repeats thrown out.
_LISTED = 2**17


@dataclass(frozen=True)
class PairDesign:
    """Coalitions that are each evaluated together with their complement; no pair comes twice.

    Attributes:
        coalitions: One of each pair, bool (M, P), at most half of the players present.
        stratum: Its size minus one, int64 (M,): pairs are drawn apart for each size.
        weights: What a pair counts in the regression, float64 (M,): sums over pairs so weighted estimate sums over all
            pairs under the Shapley kernel, whose total is 1.
        sampled: Share of each pair's stratum that is in the design, float64 (M,).
        remaining: Share of the kernel's mass whose pairs are not in the design, by their number; 0 if all are.

    Example:
        >>> design = pair_design(4, 7, "kernel", seed=0)  # all pairs of complements
        >>> design.coalitions.sum(dim=1).tolist(), design.remaining
        ([1, 1, 1, 1, 2, 2, 2], 0.0)
    """

    coalitions: Bool[Tensor, "M P"]
    stratum: Int[Tensor, " M"]
    weights: Float[Tensor, " M"]
    sampled: Float[Tensor, " M"]
    remaining: float

    @property
    def relative_weights(self) -> Float[Tensor, " M"]:
        """The weights, with mean 1."""
        return self.weights / self.weights.mean()


def num_pairs(num_players: int) -> int:
    """Return how many pairs of complements there are, the empty and the full coalition left out."""
    return 2 ** (num_players - 1) - 1


def pairs_by_size(num_players: int) -> list[int]:
    """Return how many pairs have a smaller coalition of each size 1 … P // 2, exactly: floats do not reach so far."""
    sizes = range(1, num_players // 2 + 1)
    return [math.comb(num_players, size) // (2 if 2 * size == num_players else 1) for size in sizes]


def kernel_allocation(num_players: int) -> Float[np.ndarray, " strata"]:
    """Return the Shapley kernel's mass on the pairs of each size 1 … P // 2; it adds up to 1.

    Reference: Lundberg and Lee, NeurIPS 2017, arXiv:1705.07874; Covert and Lee, AISTATS 2021, arXiv:2012.01536.
    """
    sizes = np.arange(1, num_players // 2 + 1)
    mass = np.where(2 * sizes == num_players, 1, 2) / (sizes * (num_players - sizes))
    return mass / mass.sum()


def leverage_allocation(num_players: int) -> Float[np.ndarray, " strata"]:
    """Return the same for leverage scores, of which every size has the same total.

    Reference: Musco and Witter, Provably accurate Shapley value estimation via leverage score sampling, ICLR 2025,
    arXiv:2410.01917, theorem 3.1.
    """
    sizes = np.arange(1, num_players // 2 + 1)
    mass = np.where(2 * sizes == num_players, 1.0, 2.0)
    return mass / mass.sum()


def mixed_allocation(num_players: int, pairs: float) -> Float[np.ndarray, " strata"]:
    """Return how many pairs have each size: at first as the Shapley kernel says, later more of the middle sizes.

    Small coalitions show effects of single players, middle sizes show interactions. Later pairs are allocated by the
    geometric mean of kernel and leverage scores. In trials, more of the middle sizes helped some networks, and fewer
    helped others.

    Args:
        num_players: Number of players P.
        pairs: Expected number of pairs.
    """
    first = min(pairs, _KERNEL_FIRST * num_players)
    kernel, leverage = kernel_allocation(num_players), leverage_allocation(num_players)
    between = np.sqrt(kernel * leverage)
    return first * kernel + (pairs - first) * between / between.sum()


# Expected pairs of each size, given the number of players and of all pairs.
ALLOCATIONS: dict[str, Callable[[int, float], Float[np.ndarray, " strata"]]] = {
    "kernel": lambda num_players, pairs: pairs * kernel_allocation(num_players),
    "leverage": lambda num_players, pairs: pairs * leverage_allocation(num_players),
    "mixed": mixed_allocation,
}


@lru_cache(maxsize=8)  # asked for again where evidence grows
def pair_design(num_players: int, pairs: int, allocation: str, seed: int) -> PairDesign:
    """Return a design of so many pairs, drawn without replacement; of all pairs, where there are not more.

    The pairs of each size are a stratum. Its number of pairs is the allocation's, rounded at random so that its mean is
    right, and never more than the whole stratum. A larger design of the same seed contains the
    smaller one: the first pairs of each stratum are the same.

    Args:
        num_players: P, at least 2.
        pairs: How many.
        allocation: Entry of ``ALLOCATIONS``.
        seed: Everything drawn follows from it.

    Raises:
        UserError: There are fewer than two players.

    Example:
        >>> pair_design(4, 4, "kernel", seed=0).coalitions.shape
        torch.Size([4, 4])
    """
    check_players(num_players)
    sizes = np.arange(1, num_players // 2 + 1)
    members = pairs_by_size(num_players)
    most = np.array([min(count, 2**62) for count in members], dtype=np.float64)
    share = partial(ALLOCATIONS[allocation], num_players)
    offsets = _generator(seed, "counts").random(len(sizes))
    expected, counts = _allocate(share, most, min(pairs, num_pairs(num_players)), offsets)
    mass, coalitions = kernel_allocation(num_players), []
    for size, count, of in zip(sizes, counts, members, strict=True):
        coalitions.append(_without_replacement(num_players, int(size), int(count), of, seed))
    stratum = torch.from_numpy(np.repeat(np.arange(len(sizes)), counts))
    per_pair = torch.from_numpy(mass / np.maximum(expected, np.finfo(np.float64).tiny))  # none expected: none there
    sampled = torch.from_numpy(counts / most)
    remaining = float(mass @ (1 - counts / most))
    return PairDesign(torch.cat(coalitions), stratum, per_pair[stratum], sampled[stratum], remaining)


def _allocate(
    share: Callable[[float], np.ndarray], most: Float[np.ndarray, " strata"], pairs: int, offsets: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the expected and the drawn number of pairs in each stratum; both add up to ``pairs``."""

    def expected(scale: float) -> np.ndarray:
        return np.minimum(share(scale), most)

    def drawn(scale: float) -> np.ndarray:
        return np.minimum(np.floor(share(scale) + offsets), most)

    # Each grows with the scale. The drawn numbers do so one pair at a time: hence a larger design contains this one.
    counts = drawn(_smallest_scale(drawn, pairs))
    # A complete stratum counts as what it is.
    return np.where(counts == most, most, expected(_smallest_scale(expected, pairs))), counts.astype(np.int64)


def _smallest_scale(counts: Callable[[float], np.ndarray], pairs: int) -> float:
    low, high = 0.0, 1.0
    while counts(high).sum() < pairs * (1 - 1e-12):
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if counts(middle).sum() >= pairs * (1 - 1e-12) else (middle, high)
    return high


def _without_replacement(num_players: int, size: int, count: int, members: int, seed: int) -> Bool[Tensor, "count P"]:
    """Return the first pairs of a stratum in the seed's order, by their coalition of the given size."""
    halves = 2 * size == num_players  # then the one without the last player stands for its pair
    if members <= _LISTED:
        ranks = _generator(seed, "order", size).permutation(members)[:count]
        return unrank(torch.from_numpy(ranks), num_players, size)
    generator = torch.Generator().manual_seed(derive_seed(seed, "members", size))
    drawn = torch.empty(0, num_players, dtype=torch.bool)
    while len(drawn) < count:  # blocks of a fixed size: how many are wanted changes no draw
        block = random_coalitions(torch.full((256,), size), num_players, generator)
        if halves:
            block ^= block[:, -1:].clone()
        drawn = torch.cat([drawn, block])
        _, first = np.unique(np.packbits(drawn.numpy(), axis=1), axis=0, return_index=True)
        drawn = drawn[torch.from_numpy(np.sort(first))]
    return drawn[:count]


def unrank(ranks: Int[Tensor, " N"], num_players: int, size: int) -> Bool[Tensor, "N P"]:
    """Return coalitions of one size, bool (N, P), by their rank in colexicographic order.

    Those without the last player come first.

    Reference: Knuth, The Art of Computer Programming 4A, section 7.2.1.3, on the combinatorial number system.

    Args:
        ranks: Rank of each coalition, from 0.
        num_players: Number of players P.
        size: Number of present players.
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
