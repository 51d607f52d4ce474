from itertools import combinations

import pytest
import torch

from fastshap_lab.metrics import holm, two_sample_p_values


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_all_relabellings(left: torch.Tensor, right: torch.Tensor) -> list[float]:
    """Return p-values from every choice of which images are the first group, one by one."""
    values, found = torch.cat([left, right]), []
    for column in values.T.tolist():
        distances = []
        for chosen in combinations(range(len(values)), len(left)):
            inside = sum(column[index] for index in chosen) / len(left)
            outside = sum(value for index, value in enumerate(column) if index not in chosen) / len(right)
            distances.append(abs(inside - outside))
        found.append(sum(distance >= distances[0] - 1e-9 for distance in distances) / len(distances))
    return found


@pytest.mark.parametrize("resamples", [20000, 700])  # more than there are relabellings, and fewer
@pytest.mark.parametrize(("first", "second"), [(5, 7), (8, 3), (2, 9)])
def test_the_test_agrees_with_all_relabellings(first, second, resamples):
    left, right = randn(first, 4) + torch.tensor([0.0, 0.7, -2.0, 0.0]), randn(second, 4, seed=1)
    left[:, 3], right[:, 3] = (left[:, 3] > 0) * 0.2 + 0.1, (right[:, 3] > 0) * 0.2 + 0.1  # many are equally far apart
    tolerance = 1e-9 if resamples == 20000 else 0.06
    found = two_sample_p_values(left, right, resamples).tolist()
    assert found == pytest.approx(by_all_relabellings(left, right), abs=tolerance)


def test_chance_alone_is_seldom_taken_for_a_difference():
    p_values = torch.cat([two_sample_p_values(randn(12, 5, seed=i), randn(20, 5, seed=99 + i), 199) for i in range(80)])
    assert (p_values <= 0.05).double().mean().item() == pytest.approx(0.05, abs=0.03)


def test_equal_groups_do_not_differ_and_p_is_never_zero():
    for constant in (0.0, 0.1, 1.0):
        assert two_sample_p_values(torch.full((4, 1), constant), torch.full((9, 1), constant), 50).item() == 1
    assert two_sample_p_values(randn(30, 1) + 100, randn(30, 1), 1500).item() == pytest.approx(1 / 1501)


def test_what_is_undefined_is_left_out_and_a_group_of_nothing_else_has_no_p():
    left, right = randn(6, 2) + 1, randn(9, 2, seed=1)
    left[2:, 0], left[:, 1] = torch.nan, torch.nan
    found = two_sample_p_values(left, right, 20000)
    alone = two_sample_p_values(left[:2, :1], right[:, :1], 20000)
    assert found[0].item() == alone.item()
    assert found[1].isnan()


def test_the_seed_decides():
    left, right = randn(9, 1), randn(9, 1, seed=1)
    assert torch.equal(two_sample_p_values(left, right, 99, seed=4), two_sample_p_values(left, right, 99, seed=4))
    assert not torch.equal(two_sample_p_values(left, right, 99, seed=4), two_sample_p_values(left, right, 99, seed=5))


def test_holms_correction_by_hand():
    # 0.01 · 4; 0.02 · 3; 0.03 · 2, which is no more than that; 0.9 · 1; what is undefined is not counted
    p_values = torch.tensor([0.03, torch.nan, 0.01, 0.9, 0.02], dtype=torch.float64)
    corrected = torch.tensor([0.06, torch.nan, 0.04, 0.9, 0.06], dtype=torch.float64)
    torch.testing.assert_close(holm(p_values), corrected, equal_nan=True)
    assert holm(torch.tensor([0.6, 0.7])).tolist() == [1, 1]
    assert holm(torch.tensor([])).tolist() == []
