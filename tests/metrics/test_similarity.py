import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from fastshap_lab.metrics import Similarity
from fastshap_lab.metrics.similarity import rank_similarity, structure_similarity

FIRST = torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(0))
SECOND = FIRST + 0.7 * torch.randn(3, 9, 8, generator=torch.Generator().manual_seed(1))


def slow_ssim(first: np.ndarray, second: np.ndarray, window: int) -> float:
    """Return the mean over whole windows, with sample (co)variances and the usual constants, of maps in [0, 1]."""
    x, y = ((values - values.min()) / (values.max() - values.min()) for values in (first, second))
    height, width = x.shape
    values = []
    for row in range(height - window + 1):
        for column in range(width - window + 1):
            a, b = (z[row : row + window, column : column + window].ravel() for z in (x, y))
            (var_a, cov), (_, var_b) = np.cov(a, b)
            mean = (2 * a.mean() * b.mean() + 0.01**2) / (a.mean() ** 2 + b.mean() ** 2 + 0.01**2)
            values.append(mean * (2 * cov + 0.03**2) / (var_a + var_b + 0.03**2))
    return float(np.mean(values))


def test_measures_are_those_of_the_definitions():
    metric = Similarity()
    metric.update(FIRST, SECOND)
    for image, (first, second) in enumerate(zip(FIRST.double().numpy(), SECOND.double().numpy(), strict=True)):
        row = {name: values[image].item() for name, values in metric.per_image().items()}
        assert row["spearman"] == pytest.approx(spearmanr(first.ravel(), second.ravel()).statistic)
        absolute = spearmanr(np.abs(first).ravel(), np.abs(second).ravel()).statistic
        assert row["spearman_absolute"] == pytest.approx(absolute)
        assert row["ssim"] == pytest.approx(slow_ssim(first, second, 7))


@pytest.mark.parametrize(("shape", "window"), [((4, 6), 3), ((6, 5), 5), ((3, 3), 3)])
def test_windows_shrink_to_small_maps(shape, window):
    first, second = FIRST[:, : shape[0], : shape[1]], SECOND[:, : shape[0], : shape[1]]
    expected = [slow_ssim(a, b, window) for a, b in zip(first.double().numpy(), second.double().numpy(), strict=True)]
    assert structure_similarity(first, second).tolist() == pytest.approx(expected)


def test_maps_too_small_for_a_window_have_no_structure():
    assert structure_similarity(FIRST[:, :2], SECOND[:, :2]).isnan().all()


def test_a_map_is_like_itself_and_its_opposite_only_in_absolute_values():
    metric, opposite = Similarity(), Similarity()
    metric.update(FIRST, 3 * FIRST + 1e-3)
    opposite.update(FIRST, -FIRST)
    assert metric.compute()["spearman"] == pytest.approx(1)
    assert metric.compute()["ssim"] == pytest.approx(1)
    assert opposite.compute()["spearman"] == pytest.approx(-1)
    assert opposite.compute()["spearman_absolute"] == pytest.approx(1)


def test_a_constant_map_ranks_nothing():
    assert rank_similarity(FIRST, torch.full_like(FIRST, 0.1)).isnan().all()
