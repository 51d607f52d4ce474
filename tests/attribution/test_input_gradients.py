"""Saliency, integrated gradients and SmoothGrad, against differences of the model's answers and against captum."""

import captum.attr
import pytest
import torch
from torch import Tensor, nn

from fastshap_lab.attribution.gradients import Saliency
from fastshap_lab.attribution.integrated_gradients import IntegratedGradients, quadrature
from fastshap_lab.attribution.smoothgrad import SmoothGrad
from fastshap_lab.errors import UserError
from tests.attribution.families import family, images

TARGETS = torch.tensor([1, 0, 3])
IMAGES = images(dtype=torch.float64)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return family("vit").double().requires_grad_(False)


def by_differences(model: nn.Module, image: Tensor, target: int, loss: bool = False) -> Tensor:
    """Return the gradient by normalized pixels, one pixel and channel after the other."""
    steps = 1e-5 * torch.eye(image.numel(), dtype=image.dtype).view(-1, *image.shape) * model.std

    def answer(pixels: Tensor) -> Tensor:
        logits = model(pixels)
        return -logits.log_softmax(dim=1)[:, target] if loss else logits[:, target]

    return ((answer(image + steps) - answer(image - steps)) / 2e-5).view(image.shape)


@pytest.mark.parametrize("output", ["logit", "loss"])
def test_saliency_is_the_largest_slope(model, output):
    found = Saliency(model, output).attribute(IMAGES[:2], TARGETS[:2])
    for image, target, one in zip(IMAGES, TARGETS.tolist(), found, strict=False):
        expected = by_differences(model, image, target, output == "loss").abs().amax(dim=0)
        torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-7)
    if output == "logit":
        theirs = captum.attr.Saliency(model).attribute(IMAGES[:2].clone().requires_grad_(), TARGETS[:2], abs=True)
        torch.testing.assert_close(found, (theirs * model.std).amax(dim=1))


@pytest.mark.parametrize(("rule", "steps"), [("gauss_legendre", 1), ("gauss_legendre", 7), ("trapezoid", 9)])
def test_weights_sum_to_one_and_integrate_what_they_should(rule, steps):
    points, weights = quadrature(rule, steps)
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    degree = 2 * steps - 1 if rule == "gauss_legendre" else 1
    for power in range(degree + 1):
        assert (weights * points**power).sum().item() == pytest.approx(1 / (power + 1), abs=1e-12)


@pytest.mark.parametrize(("rule", "theirs"), [("gauss_legendre", "gausslegendre"), ("trapezoid", "riemann_trapezoid")])
@pytest.mark.parametrize("baseline", [None, [0.1, 0.2, 0.9]])
def test_integrated_gradients_are_captums(model, rule, theirs, baseline):
    start = (model.mean if baseline is None else torch.tensor(baseline).double().view(3, 1, 1)).expand_as(IMAGES)
    given = {"baselines": start, "target": TARGETS, "n_steps": 6, "method": theirs}
    expected = captum.attr.IntegratedGradients(model).attribute(IMAGES.clone(), **given).sum(dim=1)
    if rule == "trapezoid":
        expected = expected * 6 / 5  # its weights sum to (n - 1) / n
    found = IntegratedGradients(model, 6, rule, baseline, max_batch=4).attribute(IMAGES, TARGETS)
    torch.testing.assert_close(found, expected)


def test_maps_add_up_to_the_change_of_the_logit(model):
    method = IntegratedGradients(model, steps=40)
    maps = method.attribute(IMAGES, TARGETS)
    start = model.mean.expand_as(IMAGES)
    change = (model(IMAGES) - model(start)).gather(1, TARGETS.unsqueeze(1)).squeeze(1)
    torch.testing.assert_close(maps.sum(dim=(1, 2)), change, rtol=1e-6, atol=1e-6)
    assert method.completeness_gap(IMAGES, maps, TARGETS).abs().max() < 1e-6
    torch.testing.assert_close(method.completeness_gap(IMAGES, 0.5 * maps, TARGETS), 0.5 * change, rtol=0, atol=1e-5)
    rough = IntegratedGradients(model, steps=1)
    assert rough.completeness_gap(IMAGES, rough.attribute(IMAGES, 2), 2).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("moment", "theirs"), [("mean", "smoothgrad"), ("square", "smoothgrad_sq"), ("variance", "vargrad")]
)
def test_smoothgrad_is_captums_under_the_same_noise(model, moment, theirs, monkeypatch):
    image, target = IMAGES[:1], 2
    generator = torch.Generator().manual_seed(5)
    normalized = (image - model.mean) / model.std
    sigma = 0.2 * (normalized.max() - normalized.min())
    noise = torch.cat([sigma * torch.randn(image.shape, generator=generator).double() for _ in range(5)])
    monkeypatch.setattr(torch, "normal", lambda mean, std, **_: noise)
    tunnel = captum.attr.NoiseTunnel(captum.attr.Saliency(model.network))
    given = {"nt_type": theirs, "nt_samples": 5, "stdevs": 1.0, "target": target, "abs": False}
    expected = tunnel.attribute(normalized.clone().requires_grad_(), **given)
    found = SmoothGrad(model, 5, 0.2, moment, seed=5, max_batch=2).attribute(image, target)
    torch.testing.assert_close(found, expected.abs().amax(dim=1))


def test_every_image_gets_the_same_noise_and_a_constant_one_none(model):
    twice = SmoothGrad(model, 3).attribute(IMAGES[[0, 0]], 1)
    torch.testing.assert_close(twice[0], twice[1])
    flat = model.mean.expand(1, 3, 8, 12) + 0 * IMAGES[:1]
    torch.testing.assert_close(SmoothGrad(model, 2).attribute(flat, 1), Saliency(model).attribute(flat, 1))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (IntegratedGradients, {"steps": 0}, "steps=0: must be at least 1"),
        (IntegratedGradients, {"rule": "trapezoid", "steps": 1}, "steps=1: .* 2 with rule=trapezoid"),
        (SmoothGrad, {"samples": 0}, "samples=0"),
    ],
)
def test_impossible_options_are_refused(model, method, options, message):
    with pytest.raises(UserError, match=message):
        method(model, **options)
