import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from torch import Tensor

from fastshap_lab.shapley.coalitions import (
    SAMPLERS,
    Sampler,
    ShapleyKernelSampler,
    UniformSizeSampler,
    all_coalitions,
    dealt_coalitions,
    kernel_size_probabilities,
    random_coalitions,
    stratified_levels,
)
from tests.oracles import kernel_weight, members

CPU = torch.device("cpu")
PAIRED = [name for name in SAMPLERS if name != "kernel"]
STRATIFIED = ["stratified", "shared", "leverage"]


def draw(sampler: Sampler, num_coalitions: int = 20_000, seed: int = 0) -> Tensor:
    coalitions, _ = sampler(1, num_coalitions, torch.Generator().manual_seed(seed), CPU)
    return coalitions[0]


def kernel_sizes(num_players: int) -> Tensor:
    weights = [
        math.comb(num_players, size) * kernel_weight(num_players, size) if 0 < size < num_players else 0.0
        for size in range(num_players + 1)
    ]
    return torch.tensor(weights, dtype=torch.float64) / sum(weights)


def assert_distributed(outcomes: Tensor, probabilities: Tensor) -> None:
    """Outcomes are independent draws of 0 … n-1 with these probabilities."""
    counts = torch.bincount(outcomes, minlength=len(probabilities))
    possible = probabilities > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        expected = len(outcomes) * probabilities[possible]
        assert scipy.stats.chisquare(counts[possible].numpy(), expected.numpy()).pvalue > 0.001


def size_law(name: str, num_players: int) -> Tensor:
    """Return the probability of each size 0 … P of an entry of SAMPLERS."""
    if name != "leverage":
        return kernel_sizes(num_players)
    inside = torch.full((num_players - 1,), 1 / (num_players - 1), dtype=torch.float64)
    return torch.nn.functional.pad(inside, (1, 1))


def halves(coalitions: Tensor, paired: bool) -> list[Tensor]:
    """Split into sets of independent draws: a coalition and its complement are not."""
    return [coalitions[::2], coalitions[1::2]] if paired else [coalitions]


@pytest.mark.parametrize("num_players", [2, 3, 16, 196])
def test_kernel_size_probabilities_match_the_textbook_kernel(num_players: int):
    torch.testing.assert_close(kernel_size_probabilities(num_players), kernel_sizes(num_players)[1:-1])


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("num_players", [2, 3, 5, 16, 64])
def test_kernel_sampler_draws_sizes_from_the_kernel(num_players: int, paired: bool):
    for independent in halves(draw(ShapleyKernelSampler(num_players, paired)), paired):
        assert_distributed(independent.sum(dim=1), kernel_sizes(num_players))


@pytest.mark.parametrize("paired", [True, False])
def test_kernel_sampler_draws_every_coalition_with_its_kernel_weight(paired: bool):
    weights = [0.0] + [kernel_weight(5, len(members(number, 5))) for number in range(1, 31)] + [0.0]
    probabilities = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    for independent in halves(draw(ShapleyKernelSampler(5, paired)), paired):
        assert_distributed((independent.long() << torch.arange(5)).sum(dim=1), probabilities)


def test_uniform_size_sampler_draws_sizes_uniformly_and_members_given_the_size():
    probabilities = [1 / (6 * math.comb(5, len(members(number, 5)))) for number in range(32)]
    numbers = (draw(UniformSizeSampler(5)).long() << torch.arange(5)).sum(dim=1)
    assert_distributed(numbers, torch.tensor(probabilities, dtype=torch.float64))
    assert_distributed(draw(UniformSizeSampler(64)).sum(dim=1), torch.full((65,), 1 / 65, dtype=torch.float64))


@pytest.mark.parametrize("size", [1, 5, 63])
def test_members_of_a_random_coalition_are_equally_likely(size: int):
    coalitions = random_coalitions(torch.full((20_000,), size), 64, torch.Generator().manual_seed(0))
    assert (coalitions.sum(dim=1) == size).all()
    # Counts of a fixed size are negatively correlated, which the factor (P-1) / (P-size) makes up for.
    expected = 20_000 * size / 64
    statistic = float(((coalitions.sum(dim=0) - expected) ** 2).sum() / expected * 63 / (64 - size))
    assert 0.001 < scipy.stats.chi2(63).cdf(statistic) < 0.999


def test_random_coalitions_have_exactly_the_given_sizes():
    sizes = torch.tensor([[0, 1, 2], [3, 4, 5]])
    coalitions = random_coalitions(sizes, 5, torch.Generator().manual_seed(0))
    assert torch.equal(coalitions.sum(dim=-1), sizes)


def test_dealt_coalitions_share_no_player_until_the_deck_runs_out():
    sizes = torch.tensor([[1, 15, 2, 3, 13, 5, 1, 1, 14, 4]]).repeat(50, 1)  # or their complements: 16, then 8 players
    coalitions = dealt_coalitions(sizes, 16, torch.Generator().manual_seed(0))
    assert torch.equal(coalitions.sum(dim=-1), sizes)
    fewer = coalitions ^ (sizes > 8).unsqueeze(-1)
    assert (fewer[:, :6].sum(dim=1) <= 1).all()
    assert (fewer[:, 7:].sum(dim=1) <= 1).all()
    assert len({tuple(image.flatten().tolist()) for image in coalitions}) == 50


def test_dealt_halves_do_not_complete_each_other():
    first, second = dealt_coalitions(torch.full((1000, 2), 8), 16, torch.Generator().manual_seed(0)).unbind(1)
    common = (first & second).sum(dim=1)
    hypergeometric = [math.comb(8, k) ** 2 / math.comb(16, 8) for k in range(9)]
    probabilities = torch.tensor(hypergeometric, dtype=torch.float64)
    assert_distributed(common[(common > 0) & (common < 8)] - 1, probabilities[1:8] / probabilities[1:8].sum())


@pytest.mark.parametrize("sizes", [[1, 2, 4], [3, 1, 2], [4, 4, 1]])
def test_each_dealt_coalition_is_uniformly_drawn(sizes: list[int]):
    dealt = dealt_coalitions(torch.tensor([sizes]).repeat(4000, 1), 5, torch.Generator().manual_seed(0))
    for size, coalitions in zip(sizes, dealt.unbind(1), strict=True):
        possible = [float(len(members(number, 5)) == size) / math.comb(5, size) for number in range(32)]
        numbers = (coalitions.long() << torch.arange(5)).sum(dim=1)
        assert_distributed(numbers, torch.tensor(possible, dtype=torch.float64))


@pytest.mark.parametrize("name", PAIRED)
@pytest.mark.parametrize("num_players", [2, 3, 7, 256])
def test_pairs_are_complements_of_the_same_image(name: str, num_players: int):
    coalitions, weights = SAMPLERS[name](num_players)(3, 10, torch.Generator().manual_seed(0), CPU)
    assert torch.equal(coalitions[:, 1::2], ~coalitions[:, ::2])
    assert torch.equal(weights[:, 1::2], weights[:, ::2])
    if num_players == 256:
        assert len({tuple(image.flatten().tolist()) for image in coalitions}) == 3


@pytest.mark.parametrize("name", SAMPLERS)
def test_pairs_of_an_odd_number_of_coalitions_are_refused(name: str):
    sampler = SAMPLERS[name](4)
    if name == "kernel":
        assert sampler(1, 3, torch.Generator(), CPU)[0].shape == (1, 3, 4)
    else:
        with pytest.raises(ValueError, match="num_coalitions=3: must be even"):
            sampler(1, 3, torch.Generator(), CPU)


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("num_coalitions", [2, 8])
@pytest.mark.parametrize("num_players", [2, 3, 256])
@pytest.mark.parametrize("name", SAMPLERS)
def test_samplers_return_proper_coalitions_and_weights_by_their_size(
    name: str, num_players: int, num_coalitions: int, batch_size: int
):
    sampler = SAMPLERS[name](num_players)
    coalitions, weights = sampler(batch_size, num_coalitions, torch.Generator().manual_seed(0), CPU)
    assert coalitions.shape == (batch_size, num_coalitions, num_players)
    assert coalitions.dtype == torch.bool
    assert weights.dtype == torch.float32
    sizes = coalitions.sum(dim=-1)
    assert sizes.min() >= 1
    assert sizes.max() <= num_players - 1
    expected = kernel_sizes(num_players)[sizes] / size_law(name, num_players)[sizes]
    torch.testing.assert_close(weights, expected.float())


@pytest.mark.parametrize("num_players", [2, 3, 16, 256])
def test_leverage_weights_have_mean_one_under_their_proposal(num_players: int):
    _, weights = SAMPLERS["leverage"](num_players)(1, 2 * (num_players - 1), torch.Generator().manual_seed(0), CPU)
    # As many pairs as there are sizes: every size is drawn first once, so that this is the mean over the proposal.
    assert weights.mean().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_single_coalition_has_the_law_of_its_sampler(name: str):
    sampler, generator = SAMPLERS[name](5), torch.Generator().manual_seed(0)
    drawn = torch.stack([sampler(3, 6, generator, CPU)[0][1] for _ in range(1000)])
    sizes = size_law(name, 5)
    probabilities = [sizes[len(members(number, 5))] / math.comb(5, len(members(number, 5))) for number in range(32)]
    for coalitions in drawn.unbind(1):
        assert_distributed((coalitions.long() << torch.arange(5)).sum(dim=1), torch.stack(probabilities))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("num_players", [3, 16, 64])
@pytest.mark.parametrize("name", STRATIFIED)
def test_sizes_of_an_image_and_of_a_batch_are_as_balanced_as_whole_numbers_can_be(
    name: str, num_players: int, seed: int
):
    coalitions, _ = SAMPLERS[name](num_players)(6, 20, torch.Generator().manual_seed(seed), CPU)
    sizes, law = coalitions[:, ::2].sum(dim=-1), size_law(name, num_players)
    together = [sizes[:1] if name == "shared" else sizes, *sizes.split(1)]
    for counted in together:
        counts = torch.bincount(counted.flatten(), minlength=num_players + 1)
        assert ((counts - counted.numel() * law).abs() < 1).all()
        pairs = counts[: (num_players + 1) // 2] + counts.flip(0)[: (num_players + 1) // 2]
        assert ((pairs - counted.numel() * 2 * law[: (num_players + 1) // 2]).abs() < 1).all()


def test_shared_sizes_are_those_of_every_image_but_members_are_not():
    coalitions, _ = SAMPLERS["shared"](64)(5, 8, torch.Generator().manual_seed(0), CPU)
    assert (coalitions.sum(dim=-1) == coalitions[:1].sum(dim=-1)).all()
    assert len({tuple(image.flatten().tolist()) for image in coalitions}) == 5


def test_stratified_levels_are_one_grid_of_which_every_image_has_a_coarser_one():
    levels = stratified_levels(6, 4, torch.Generator().manual_seed(0))
    torch.testing.assert_close(levels.flatten().sort().values.diff(), torch.full((23,), 1 / 24))
    torch.testing.assert_close(levels.sort(dim=1).values.diff(dim=1), torch.full((6, 3), 1 / 4))


@pytest.mark.parametrize("constructor", [*SAMPLERS.values(), UniformSizeSampler], ids=[*SAMPLERS, "uniform"])
def test_generator_alone_decides_what_is_drawn(constructor: Callable[[int], Sampler]):
    sampler = constructor(16)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    first = sampler(2, 6, generator, CPU)
    second = sampler(2, 6, generator, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    repeated = constructor(16)(2, 6, torch.Generator().manual_seed(0), CPU)
    assert all(torch.equal(again, before) for again, before in zip(repeated, first, strict=True))
    assert not torch.equal(second[0], first[0])


@pytest.mark.parametrize("constructor", [*SAMPLERS.values(), UniformSizeSampler], ids=[*SAMPLERS, "uniform"])
def test_results_lie_on_the_device(constructor: Callable[[int], Sampler]):
    for result in constructor(7)(2, 6, torch.Generator(), torch.device("meta")):
        assert result.device.type == "meta"


@pytest.mark.gpu
@pytest.mark.parametrize("constructor", [*SAMPLERS.values(), UniformSizeSampler], ids=[*SAMPLERS, "uniform"])
def test_generators_of_gpus_draw_there(constructor: Callable[[int], Sampler]):
    cuda = torch.device("cuda", 0)
    first, again = (constructor(16)(5, 8, torch.Generator(cuda).manual_seed(0), cuda) for _ in range(2))
    assert all(result.device == cuda for result in first)
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_uniform_sizes_weigh_one():
    assert torch.equal(UniformSizeSampler(7)(2, 5, torch.Generator(), CPU)[1], torch.ones(2, 5))


def test_all_coalitions_are_numbered_by_their_members():
    coalitions = all_coalitions(6)
    assert coalitions.shape == (64, 6)
    for number, coalition in enumerate(coalitions):
        assert coalition.nonzero().flatten().tolist() == members(number, 6)


def test_slices_of_all_coalitions_make_up_the_whole():
    slices = [all_coalitions(6, 0, 5), all_coalitions(6, 5, 40), all_coalitions(6, 40)]
    assert torch.equal(torch.cat(slices), all_coalitions(6))
