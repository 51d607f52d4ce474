import captum.metrics
import pytest
import torch

from fastshap_lab.attribution import METHODS
from fastshap_lab.evaluation.checks.max_sensitivity import MaxSensitivity, _noise, relative_change


def noise_of(index: int, draw: int) -> torch.Tensor:
    return _noise(torch.Size((3, 16, 16)), index, draw)


@pytest.fixture(scope="module")
def table(evaluation):
    MaxSensitivity(draws=5, radius=0.05, images=4)(evaluation, "max_sensitivity")
    return evaluation.report.tables["max_sensitivity"].set_index(["model", "method"])


def test_it_is_captums_for_the_same_noise(evaluation, table):
    pipeline, indices = evaluation.pipelines[0], evaluation.evaluated[:4]
    saliency, target = METHODS["saliency"](pipeline.classifier), evaluation.classes(pipeline)[:4, 0]
    noise = torch.stack([noise_of(i, draw) for i in indices.tolist() for draw in range(5)])

    def perturb(image, radius):  # captum repeats every image in place
        return image + radius * noise * pipeline.classifier.std

    def explain(images, target):  # a tuple's answer is a tuple
        if isinstance(images, tuple):
            return (saliency.attribute(images[0], target),)
        return saliency.attribute(images, target)

    expected = captum.metrics.sensitivity_max(
        explain,
        evaluation.images(indices),
        perturb,
        perturb_radius=0.05,
        n_perturb_samples=5,
        target=target,
    )
    assert table.loc["A", "saliency"]["change"] == pytest.approx(expected.mean().item(), rel=1e-5)


def test_random_changes_by_the_root_of_two_and_the_steadier_come_first(evaluation, table):
    assert table.loc["A", "random"]["change"] == pytest.approx(2**0.5, rel=0.2)
    assert table.loc["A", "random"]["minus random"] == 0
    row = table.loc["A", "explainer"]
    assert row["minus random"] == pytest.approx(row["change"] - table.loc["A", "random"]["change"])
    defined = table.loc["A"].dropna()
    assert set(defined.index) | {"grad_cam"} == {"random", "saliency", "grad_cam", "explainer"}
    assert defined["change"].is_monotonic_increasing
    assert (defined["change_low"] > 0).all()
    assert (defined["change_low"] <= defined["change"]).all()
    assert (defined["change"] <= defined["change_high"]).all()
    # Some maps of Grad-CAM are all zero.
    assert (defined.drop("grad_cam", errors="ignore")["images"] == 4).all()


def test_noise_follows_from_image_and_draw_and_fills_the_ball():
    noise = torch.stack([noise_of(3, draw) for draw in range(4)])
    assert 0.99 < noise.abs().max() <= 1
    assert not torch.equal(noise[0], noise[1])
    assert torch.equal(noise[1], noise_of(3, 1))
    assert not torch.equal(noise[1], noise_of(4, 1))


def test_changes_are_relative_and_undefined_for_maps_of_zeros():
    maps = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[1.0, 0.0]]])
    near = torch.tensor([[[3.0, 5.0]], [[1.0, 0.0]], [[1.0, 0.0]]])
    expected = torch.tensor([0.2, torch.nan, 0.0], dtype=torch.float64)
    torch.testing.assert_close(relative_change(maps, near), expected, equal_nan=True)
