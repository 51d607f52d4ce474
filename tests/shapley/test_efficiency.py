import numpy as np
import pytest
import torch
from torch import Tensor

from fastshap_lab.shapley.efficiency import (
    NORMALIZATIONS,
    additive_normalization,
    efficiency_gap,
    equal_split,
    multiplicative_normalization,
)


@pytest.fixture(params=[2, 1], ids=["null per image", "one null"])
def problem(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor, Tensor]:
    """Raw values (2, 5, 3), grand (2, 3), and null of every image or of all."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 5, 3), (2, 3), (request.param, 3)]
    raw, grand, null = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return raw, grand, null


def test_gap_is_positive_where_values_sum_to_too_little():
    phi = torch.tensor([[[1.0, 1.0], [2.0, 5.0]]])  # sums 3 and 6, of 4 each
    gap = efficiency_gap(phi, grand=torch.tensor([[5.0, 5.0]]), null=torch.tensor([[1.0, 1.0]]))
    assert gap.tolist() == [[1.0, -2.0]]


@pytest.mark.parametrize("name", ["additive", "multiplicative"])
def test_normalized_values_have_no_gap_and_leave_the_raw_ones_alone(name: str, problem: tuple[Tensor, Tensor, Tensor]):
    raw, grand, null = problem
    before = raw.clone()
    gap = efficiency_gap(NORMALIZATIONS[name](raw, grand, null), grand, null)
    torch.testing.assert_close(gap, torch.zeros_like(gap))
    assert torch.equal(raw, before)


def test_no_normalization_keeps_the_gap(problem: tuple[Tensor, Tensor, Tensor]):
    assert torch.equal(NORMALIZATIONS["none"](*problem), problem[0])


def test_additive_normalization_is_the_orthogonal_projection(problem: tuple[Tensor, Tensor, Tensor]):
    raw, grand, null = problem
    normalized = additive_normalization(raw, grand, null)
    # Minimize |x - raw|² subject to sum(x) = grand - null: x and the multiplier solve one linear system.
    system = np.block([[2 * np.eye(5), np.ones((5, 1))], [np.ones((1, 5)), np.zeros((1, 1))]])
    for image in range(2):
        for target in range(3):
            total = grand[image, target] - null[image % len(null), target]
            right = np.append(2 * raw[image, :, target].numpy(), total)
            expected = torch.from_numpy(np.linalg.solve(system, right)[:5])
            torch.testing.assert_close(normalized[image, :, target], expected)


def test_multiplicative_normalization_keeps_ratios(problem: tuple[Tensor, Tensor, Tensor]):
    scale = multiplicative_normalization(*problem) / problem[0]
    torch.testing.assert_close(scale, scale[:, :1].expand_as(scale))


def test_equal_split_shares_what_the_grand_coalition_adds():
    grand, null = torch.tensor([[5.0, 1.0], [2.0, 3.0]]), torch.tensor([[1.0, 1.0]])
    split = equal_split(grand, null, num_players=4)
    assert split.tolist() == [[[1.0, 0.0]] * 4, [[0.25, 0.5]] * 4]
