import numpy as np
import pytest
import torch
from scipy.stats import permutation_test
from torch import Tensor

from fastshap_lab.metrics.bootstrap import bootstrap_means, bootstrap_sums, paired_test, percentile_intervals


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_means_are_sums_by_number_and_leave_out_what_is_undefined():
    rows = randn(9, 2)
    torch.testing.assert_close(bootstrap_means(rows, 50, seed=3), bootstrap_sums(rows, 50, seed=3) / 9)
    rows[:4, 1] = torch.nan
    means, defined = bootstrap_means(rows, 4000)[:, 1], rows[4:, 1]
    # None of the five is drawn with probability (4/9)^9: then there is no mean.
    assert means.isnan().double().mean().item() == pytest.approx((4 / 9) ** 9, abs=0.0015)
    means = means[~means.isnan()]
    assert defined.min() - 1e-12 <= means.min() <= means.max() <= defined.max() + 1e-12
    assert means.mean().item() == pytest.approx(defined.mean().item(), abs=0.04)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    covered = 0
    for trial in range(300):
        rows = randn(60, 1, seed=trial).exp()  # skewed, mean exp(1/2)
        low, high = percentile_intervals(bootstrap_means(rows, 400, seed=trial)).squeeze(1).tolist()
        covered += low < np.exp(0.5) < high
    assert 0.86 <= covered / 300 <= 0.97  # below 0.95: skewed means of 60 are known to be


@pytest.mark.parametrize("shift", [0.0, 0.6, -1.5])
def test_the_permutation_test_agrees_with_all_sign_flips(shift):
    first, second = randn(11) + shift, 0.5 * randn(11, seed=1)
    result = paired_test(first, second, 20000, seed=2)
    difference = (first - second).numpy()
    exact = permutation_test((difference,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert result.difference == pytest.approx(difference.mean())
    assert result.p_value == pytest.approx(exact.pvalue, abs=0.012)
    assert result.low < result.difference < result.high
    assert result.images == 11


def test_chance_alone_is_seldom_taken_for_a_difference():
    p_values = [paired_test(randn(20, seed=i), randn(20, seed=1000 + i), 199).p_value for i in range(400)]
    assert np.mean(np.array(p_values) <= 0.05) == pytest.approx(0.05, abs=0.03)


def test_equal_explanations_do_not_differ_and_p_is_never_zero():
    same = paired_test(randn(30), randn(30), 100)
    assert (same.difference, same.p_value) == (0, 1)
    assert paired_test(randn(30) + 100, randn(30), 100).p_value == pytest.approx(1 / 101)


def test_images_undefined_for_either_are_left_out():
    first, second = randn(6), randn(6, seed=1)
    first[0], second[3] = torch.nan, torch.nan
    kept = [1, 2, 4, 5]
    assert paired_test(first, second, 50) == paired_test(first[kept], second[kept], 50)
    nothing = paired_test(first[:1], second[:1], 50)
    assert nothing.images == 0
    assert np.isnan(nothing.p_value)


def test_the_seed_decides():
    assert paired_test(randn(9), randn(9, seed=1), 99, seed=4) == paired_test(randn(9), randn(9, seed=1), 99, seed=4)
    assert paired_test(randn(9), randn(9, seed=1), 99, seed=4) != paired_test(randn(9), randn(9, seed=1), 99, seed=5)
