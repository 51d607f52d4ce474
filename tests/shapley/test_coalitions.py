import math

import pytest
import scipy.stats
import torch
from torch import Tensor

from fastshap_lab.shapley.coalitions import (
    Sampler,
    ShapleyKernelSampler,
    UniformSizeSampler,
    all_coalitions,
    kernel_size_probabilities,
    random_coalitions,
)
from fastshap_lab.shapley.losses import shapley_regression_loss
from tests.oracles import TableGame, kernel_weight, members

CPU = torch.device("cpu")
SAMPLERS = [ShapleyKernelSampler(7), ShapleyKernelSampler(7, paired=False), UniformSizeSampler(7)]


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


def test_pairs_are_complements_of_the_same_image():
    coalitions, _ = ShapleyKernelSampler(7)(3, 10, torch.Generator().manual_seed(0), CPU)
    assert torch.equal(coalitions[:, 1::2], ~coalitions[:, ::2])
    assert len({tuple(image.flatten().tolist()) for image in coalitions}) == 3


def test_pairs_of_an_odd_number_of_coalitions_are_refused():
    with pytest.raises(ValueError, match="even number of coalitions, got 3"):
        ShapleyKernelSampler(4)(1, 3, torch.Generator(), CPU)
    assert ShapleyKernelSampler(4, paired=False)(1, 3, torch.Generator(), CPU)[0].shape == (1, 3, 4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_generator_alone_decides_what_is_drawn(sampler: Sampler):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    first, _ = sampler(2, 6, generator, CPU)
    second, _ = sampler(2, 6, generator, CPU)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    repeated, _ = sampler(2, 6, torch.Generator().manual_seed(0), CPU)
    assert torch.equal(repeated, first)
    assert not torch.equal(second, first)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_weights_are_ones_and_results_lie_on_the_device(sampler: Sampler):
    _, weights = sampler(2, 6, torch.Generator(), CPU)
    assert torch.equal(weights, torch.ones(2, 6))
    for result in sampler(2, 6, torch.Generator(), torch.device("meta")):
        assert result.device.type == "meta"


def test_all_coalitions_are_numbered_by_their_members():
    coalitions = all_coalitions(6)
    assert coalitions.shape == (64, 6)
    for number, coalition in enumerate(coalitions):
        assert coalition.nonzero().flatten().tolist() == members(number, 6)


def test_slices_of_all_coalitions_make_up_the_whole():
    slices = [all_coalitions(6, 0, 5), all_coalitions(6, 5, 40), all_coalitions(6, 40)]
    assert torch.equal(torch.cat(slices), all_coalitions(6))


@pytest.mark.parametrize("paired", [True, False])
def test_regression_gradient_over_draws_is_unbiased(paired: bool):
    num_draws, num_players, num_classes = 20_000, 5, 2
    game = TableGame.random(1, num_players, num_classes)
    start = torch.randn(1, num_players, num_classes, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    expected = torch.zeros_like(start)
    weights = [kernel_weight(num_players, len(members(number, num_players))) for number in range(1, 31)]
    for number, weight in zip(range(1, 31), weights, strict=True):
        inside = members(number, num_players)
        residual = game.table[0, number] - game.table[0, 0] - start[0, inside].sum(dim=0)
        expected[0, inside] += weight / sum(weights) * num_players * -2 * residual / num_classes

    sampler = ShapleyKernelSampler(num_players, paired)
    coalitions, ones = sampler(num_draws, 4, torch.Generator().manual_seed(0), CPU)
    values, _, null = game(game.image.expand(num_draws, -1, -1, -1), coalitions)
    phi = start.repeat(num_draws, 1, 1).requires_grad_()
    (num_draws * shapley_regression_loss(phi, coalitions, values, null, ones)).backward()  # undo the mean over images
    error = (phi.grad.mean(dim=0) - expected[0]) / (phi.grad.std(dim=0) / math.sqrt(num_draws))
    assert error.abs().max() < 4.5
