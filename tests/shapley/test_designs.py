"""Designs: pairs of coalitions without repeats, nested, with weights that make sums unbiased."""

import itertools
import math

import numpy as np
import pytest
import torch

from fastshap_lab.shapley.designs import ALLOCATIONS, num_pairs, pair_design, unrank
from tests.oracles import kernel_weight
from tests.parts import pairwise

BUDGETS = [1, 2, 3, 7, 31, 200]


def rows(coalitions: torch.Tensor) -> set[tuple[bool, ...]]:
    return {tuple(row) for row in coalitions.tolist()}


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("num_players", [2, 3, 4, 9, 21, 64])
def test_no_coalition_comes_twice_and_the_budget_is_met(num_players, allocation):
    for pairs in BUDGETS:
        design = pair_design(num_players, pairs, allocation, seed=1)
        both = torch.cat([design.coalitions, ~design.coalitions])
        assert len(both) == len(rows(both)) == 2 * min(pairs, num_pairs(num_players))
        assert torch.equal(design.coalitions.sum(dim=1), design.stratum + 1)
        assert (design.stratum + 1).max() <= num_players // 2


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("num_players", [5, 10, 21, 64])
def test_a_larger_design_begins_each_stratum_like_a_smaller_one(num_players, allocation):
    designs = [pair_design(num_players, pairs, allocation, seed=2) for pairs in BUDGETS]
    for small, large in itertools.pairwise(designs):
        for stratum in small.stratum.unique():
            fewer, more = (one.coalitions[one.stratum == stratum] for one in (small, large))
            assert torch.equal(more[: len(fewer)], fewer)


@pytest.mark.parametrize("allocation", ALLOCATIONS)
@pytest.mark.parametrize("num_players", [2, 3, 6, 9])
def test_all_pairs_weigh_what_the_shapley_kernel_gives_them(num_players, allocation):
    design = pair_design(num_players, 10_000, allocation, seed=0)
    sizes = design.coalitions.sum(dim=1).tolist()
    kernel = torch.tensor([2 * kernel_weight(num_players, size) for size in sizes], dtype=torch.float64)
    torch.testing.assert_close(design.weights, kernel / kernel.sum())
    assert (design.sampled == 1).all()
    assert design.remaining == pytest.approx(0)


@pytest.mark.parametrize(("pairs", "allocation"), pairwise([3, 12, 40], list(ALLOCATIONS)))
def test_weighted_sums_are_right_on_average(pairs, allocation):
    num_players = 8
    every = pair_design(num_players, num_pairs(num_players), allocation, seed=0)
    value = torch.randn(2**num_players, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    bits = 2 ** torch.arange(num_players)

    def total(seed: int) -> float:
        design = pair_design(num_players, pairs, allocation, seed)
        return float(design.weights @ value[(design.coalitions * bits).sum(dim=1)])

    # A pair is stood for by its smaller coalition, one of half the players by that without the last.
    expected = float(every.weights @ value[(every.coalitions * bits).sum(dim=1)])
    sums = np.array([total(seed) for seed in range(200)])
    assert abs(sums.mean() - expected) < 4 * sums.std() / math.sqrt(len(sums))


def test_the_smallest_coalitions_are_complete_first():
    design = pair_design(16, 128, "kernel", seed=0)
    assert rows(design.coalitions[design.stratum == 0]) == rows(torch.eye(16, dtype=torch.bool))
    assert (design.sampled[design.stratum == 0] == 1).all()
    assert (design.sampled[design.stratum > 0] < 1).all()


def test_leverage_draws_as_many_of_each_size():
    counts = pair_design(65, 640, "leverage", seed=0).stratum.bincount()
    assert counts.min() >= 19
    assert counts.max() <= 21


@pytest.mark.parametrize(("num_players", "size"), [(5, 1), (6, 3), (9, 4), (7, 7)])
def test_ranks_are_every_coalition_in_order(num_players, size):
    listed = unrank(torch.arange(math.comb(num_players, size)), num_players, size)
    subsets = sorted(itertools.combinations(range(num_players), size), key=lambda subset: subset[::-1])
    assert [tuple(row.nonzero().flatten().tolist()) for row in listed] == subsets


def test_the_same_seed_is_the_same_design():
    first, again, other = (pair_design.__wrapped__(30, 50, "kernel", seed) for seed in (3, 3, 4))
    assert torch.equal(first.coalitions, again.coalitions)
    assert not torch.equal(first.coalitions[5:], other.coalitions[5:])
