import numpy as np
import pytest
import torch
from scipy.spatial.distance import cosine
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import mean_squared_error, r2_score
from torch import Tensor

from fastshap_lab.metrics import ShapleyCorrelation, ShapleyDistance, ShapleyError
from fastshap_lab.metrics.bootstrap import bootstrap_sums
from fastshap_lab.metrics.shapley_error import shapley_error_sums, shapley_errors
from fastshap_lab.shapley import additive_normalization, equal_split

IMAGES, PLAYERS, CLASSES = 7, 5, 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


NULL = randn(1, CLASSES, seed=1)
REFERENCE = 0.3 + randn(IMAGES, PLAYERS, CLASSES)
GRAND = REFERENCE.sum(dim=1) + NULL
PHI = REFERENCE + 0.5 * randn(IMAGES, PLAYERS, CLASSES, seed=2)
TARGET = torch.tensor([0, 2, 1, 1, 0, 2, 2])


def measured(phi: Tensor = PHI, reference: Tensor = REFERENCE, parts: int = 1) -> ShapleyError:
    metric = ShapleyError()
    for rows in torch.arange(IMAGES).tensor_split(parts):
        metric.update(phi[rows], reference[rows], GRAND[rows], NULL, TARGET[rows])
    return metric


def slowly(pairs: list[tuple[int, int]]) -> dict[str, float]:
    """Return the measures over these images and classes by other libraries."""
    phi = np.stack([PHI[image, :, k].numpy() for image, k in pairs])
    reference = np.stack([REFERENCE[image, :, k].numpy() for image, k in pairs])
    shares = np.stack([np.full(PLAYERS, float(GRAND[image, k] - NULL[0, k]) / PLAYERS) for image, k in pairs])
    return {
        "mse": mean_squared_error(reference.ravel(), phi.ravel()),
        "r2": r2_score(reference.ravel(), phi.ravel()),
        "r2_beyond_equal": 1 - ((phi - reference) ** 2).sum() / ((shares - reference) ** 2).sum(),
        "cosine": np.mean([1 - cosine(a, b) for a, b in zip(phi, reference, strict=True)]),
        "spearman": np.mean([spearmanr(a, b).statistic for a, b in zip(phi, reference, strict=True)]),
    }


def test_measures_are_those_of_other_libraries():
    pairs = [(image, k) for image in range(IMAGES) for k in range(CLASSES)]
    expected = {
        "target": slowly([(image, k) for image, k in pairs if k == TARGET[image]]),
        "others": slowly([(image, k) for image, k in pairs if k != TARGET[image]]),
        "all": slowly(pairs),
    }
    errors = measured().compute()
    assert errors.keys() == expected.keys()
    for part, measures in expected.items():
        assert errors[part] == pytest.approx(measures, rel=1e-9)


def test_the_target_and_the_others_sum_up_to_all():
    metric, sums = measured(), shapley_error_sums(PHI, REFERENCE, GRAND, NULL)
    parts = metric._parts()
    torch.testing.assert_close(parts["target"] + parts["others"], sums.sum(dim=1))
    assert parts["target"][:, 0].tolist() == [PLAYERS] * IMAGES
    assert parts["others"][:, 0].tolist() == [PLAYERS * (CLASSES - 1)] * IMAGES


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_how_batches_are_split_does_not_matter(parts):
    whole, split = measured(), measured(parts=parts)
    for part, errors in whole.compute().items():
        assert split.compute()[part] == pytest.approx(errors, rel=1e-12)
    assert split.intervals(50) == whole.intervals(50)


def test_a_null_of_each_image_counts_as_its_own():
    null = randn(IMAGES, CLASSES, seed=3)
    grand = REFERENCE.sum(dim=1) + null
    sums = shapley_error_sums(PHI, REFERENCE, grand, null)
    torch.testing.assert_close(sums, shapley_error_sums(PHI, REFERENCE, GRAND, NULL))  # only the difference counts


def test_perfect_values_have_no_error():
    errors = measured(phi=REFERENCE).compute()["all"]
    assert errors == pytest.approx({"mse": 0, "r2": 1, "r2_beyond_equal": 1, "cosine": 1, "spearman": 1})


def test_the_equal_split_explains_nothing_beyond_itself_and_ranks_nobody():
    errors = measured(phi=equal_split(GRAND, NULL, PLAYERS)).compute()
    for part in errors.values():
        assert part["r2_beyond_equal"] == pytest.approx(0, abs=1e-12)
        assert np.isnan(part["spearman"])


def test_the_opposite_ranks_the_other_way_round():
    errors = measured(phi=-REFERENCE).compute()["all"]
    assert (errors["cosine"], errors["spearman"]) == pytest.approx((-1, -1))


def test_ties_share_their_ranks():
    phi, reference = torch.tensor([1.0, 1.0, 2.0, 3.0]).view(1, 4, 1), torch.tensor([1.0, 2.0, 2.0, 0.0]).view(1, 4, 1)
    sums = shapley_error_sums(phi, reference, reference.sum(dim=1), torch.zeros(1, 1))
    expected = spearmanr([1, 1, 2, 3], [1, 2, 2, 0]).statistic
    assert shapley_errors(sums[0, 0])["spearman"].item() == pytest.approx(expected)


def test_undefined_correlations_are_left_out_of_the_mean():
    phi, reference = PHI.clone(), REFERENCE.clone()
    phi[0, :, 0] = 0.0  # neither a direction nor ranks
    reference[1, :, 1] = 2.0  # a direction, but no ranks
    defined = {
        "cosine": [(i, k) for i in range(IMAGES) for k in range(CLASSES) if (i, k) != (0, 0)],
        "spearman": [(i, k) for i in range(IMAGES) for k in range(CLASSES) if (i, k) not in ((0, 0), (1, 1))],
    }
    errors = measured(phi, reference).compute()["all"]
    cosines = [1 - cosine(phi[i, :, k], reference[i, :, k]) for i, k in defined["cosine"]]
    spearmans = [spearmanr(phi[i, :, k], reference[i, :, k]).statistic for i, k in defined["spearman"]]
    assert errors["cosine"] == pytest.approx(np.mean(cosines))
    assert errors["spearman"] == pytest.approx(np.mean(spearmans))


@pytest.mark.parametrize("scale", [1e-12, 1e6])
def test_a_direction_has_no_scale(scale):
    # Values of a class that the model gives next to no probability are tiny, and may point the right way all the same.
    errors, scaled = measured().compute()["all"], ShapleyError()
    scaled.update(PHI * scale, REFERENCE * scale, GRAND * scale, NULL * scale, TARGET)
    for name, value in scaled.compute()["all"].items():
        assert value == pytest.approx(errors[name] * (scale**2 if name == "mse" else 1), rel=1e-6)


def test_intervals_contain_the_estimate_and_are_repeatable():
    metric = measured()
    errors, intervals = metric.compute(), metric.intervals(200, seed=3)
    for part in errors:
        for name, value in errors[part].items():
            low, high = intervals[part][name]
            assert low < value < high
    assert metric.intervals(200, seed=3) == intervals
    assert metric.intervals(200, seed=4) != intervals


def test_a_single_image_leaves_no_uncertainty():
    metric = ShapleyError()
    metric.update(PHI[:1], REFERENCE[:1], GRAND[:1], NULL, TARGET[:1])
    low, high = metric.intervals(20)["all"]["mse"]
    assert low == pytest.approx(high)
    assert low == pytest.approx(metric.compute()["all"]["mse"])


def test_bootstrap_sums_are_sums_of_as_many_drawn_rows():
    # Decimal digits count how often each row was drawn.
    drawn = bootstrap_sums(torch.tensor([[1.0, 1.0], [1.0, 10.0], [1.0, 100.0]], dtype=torch.float64), 4000)
    assert drawn.shape == (4000, 2)
    assert drawn[:, 0].unique().tolist() == [3.0]
    counts = torch.stack([drawn[:, 1] % 10, drawn[:, 1] // 10 % 10, drawn[:, 1] // 100])
    assert counts.sum(dim=0).unique().tolist() == [3.0]
    # Each count is binomial (3, 1/3): mean 1, variance 2/3.
    torch.testing.assert_close(counts.mean(dim=1), torch.ones(3, dtype=torch.float64), rtol=0, atol=0.05)
    torch.testing.assert_close(counts.var(dim=1), torch.full((3,), 2 / 3, dtype=torch.float64), rtol=0, atol=0.06)


def test_intervals_are_as_wide_as_the_standard_error_of_a_mean_says():
    number = 400
    error = randn(number, 1, 1, seed=5).abs()
    metric, zero = ShapleyError(), torch.zeros(number, 1)
    # Two players, one of them right: the mean squared error is that of the other's, halved.
    reference = torch.zeros(number, 2, 1)
    phi = torch.cat([error.float(), torch.zeros(number, 1, 1)], dim=1)
    metric.update(phi, reference, zero, zero, torch.zeros(number, dtype=torch.long))
    low, high = metric.intervals(2000)["all"]["mse"]
    standard_error = float(error.square().std() / 2 / number**0.5)
    assert high - low == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_correlation_with_references_is_that_over_players_whatever_the_unit():
    generator = torch.Generator().manual_seed(3)
    phi, reference = (torch.randn(4, 9, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    metric, scaled = ShapleyCorrelation(), ShapleyCorrelation()
    metric.update(phi, reference)
    scaled.update(1000 * phi, reference)
    assert metric.compute() == pytest.approx(scaled.compute())
    for number, name in enumerate(("pearson", "spearman")):
        correlate = (pearsonr, spearmanr)[number]
        found = [[correlate(phi[b, :, k], reference[b, :, k]).statistic for k in range(3)] for b in range(4)]
        assert metric.per_image()[name].tolist() == pytest.approx([row[0] for row in found])
        assert metric.per_image()[f"others_{name}"].tolist() == pytest.approx([(row[1] + row[2]) / 2 for row in found])
    assert metric.per_image()["cosine"][0] == pytest.approx(
        float(phi[0, :, 0] @ reference[0, :, 0] / phi[0, :, 0].norm() / reference[0, :, 0].norm())
    )


def test_distance_from_references_with_and_without_what_is_missing_of_the_total():
    reference = torch.tensor([[[0.0, 1.0], [0.0, 1.0], [3.0, 1.0]]])
    off = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [2.0, 0.0]]])
    metric = ShapleyDistance()
    metric.update(reference + off, reference)
    assert metric.compute() == pytest.approx(
        {"target": 6**0.5, "target_normalized": (1 + 25 + 16) ** 0.5 / 3, "others": 0, "others_normalized": 0}
    )
    grand, null = reference.sum(dim=1) + 1, torch.ones(1, 2)
    normalized = additive_normalization(reference + off, grand, null)
    again = ShapleyDistance()
    again.update(normalized, reference)
    assert again.compute()["target"] == pytest.approx(metric.compute()["target_normalized"])


def test_of_one_class_there_are_no_others_and_a_constant_map_has_no_correlation():
    metric = ShapleyCorrelation()
    metric.update(torch.ones(1, 4, 1), torch.arange(4.0).view(1, 4, 1))
    found = metric.compute()
    assert set(found) == {"pearson", "spearman", "cosine"}
    assert found["pearson"] != found["pearson"]
    assert found["cosine"] == pytest.approx(6 / (2 * 14**0.5))
