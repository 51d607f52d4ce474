"""What every entry of ``METHODS`` promises, with every family of networks."""

from typing import Any

import pytest
import torch
from torch import nn

from fastshap_lab.attribution import METHODS, AttributionMethod
from fastshap_lab.attribution.gradcam import AttentionGradCAM, GradCAM
from fastshap_lab.attribution.random import Random
from fastshap_lab.attribution.scorecam import ScoreCAM
from fastshap_lab.errors import UserError
from tests.attribution.families import FAMILIES, NUM_CLASSES, family, images
from tests.attribution.subjects import OPTIONS, state, unsettle

CLASS_TOKEN = {"vit", "distilled", "registers", "eva"}
RULES = {"vit", "distilled", "registers"}
# Who takes whom; a method that is not listed takes every family.
TAKES: dict[str, set[str]] = {
    "raw_attention": CLASS_TOKEN,
    "score_matrix": CLASS_TOKEN | {"mean", "eva_mean"},
    "rollout": CLASS_TOKEN,
    "gradient_rollout": CLASS_TOKEN,
    "partial_lrp": RULES,
    "cgw1": RULES,
    "cgw2": CLASS_TOKEN,
    "head_relevance": RULES,
    "tam": CLASS_TOKEN,
    "ag_cam": CLASS_TOKEN,
    "saw": CLASS_TOKEN,
    "cam": {"swin", "resnet"},
    "attention_grad_cam": CLASS_TOKEN,
    "vit_cx": set(FAMILIES) - {"resnet"},
}
CLAMPED = (GradCAM, AttentionGradCAM, ScoreCAM)  # all zero where everything speaks against the class
TARGETS = torch.tensor([1, 0, 3])


def taken(name: str) -> set[str]:
    return TAKES.get(name, set(FAMILIES))


NAMES = [name for name, kind in METHODS.items() if kind.inputs == ("model",)]
PAIRS = [(name, kind) for name in NAMES for kind in FAMILIES if kind in taken(name)]
# Each method with a few families by default, and each family with many methods: the others take minutes.
FEW = {pair for place, pair in enumerate(PAIRS) if place % 4 == 0 or pair[1] == sorted(taken(pair[0]))[0]}
CHOSEN = [pair if pair in FEW else pytest.param(pair, marks=pytest.mark.extended) for pair in PAIRS]
REFUSED = [(name, kind) for name in NAMES for kind in FAMILIES if kind not in taken(name)]


def method_of(name: str, model: nn.Module, **options: Any) -> AttributionMethod:
    return METHODS[name](model, **OPTIONS.get(name, {}), **options)


@pytest.fixture(params=CHOSEN, ids="-".join)
def method(request: pytest.FixtureRequest) -> AttributionMethod:
    name, kind = request.param
    return method_of(name, family(kind))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """Compare maps as fractions of their largest entry."""
    size = expected.abs().amax().clamp_min(torch.finfo(expected.dtype).tiny)
    torch.testing.assert_close(found / size, expected / size, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "kind"), REFUSED, ids=str)
def test_a_method_that_does_not_apply_says_why(name, kind):
    model = family(kind)
    reason = METHODS[name].supports(model)
    assert reason
    with pytest.raises(UserError) as error:
        method_of(name, model)
    assert str(error.value) == f"{METHODS[name].__name__}: {reason}"


def test_maps_are_finite_and_of_tokens_or_pixels(method):
    assert method.supports(method.model) is None
    found = method.attribute(images(), TARGETS)
    assert tuple(found.shape[1:]) in {(-(-8 // stride), -(-12 // stride)) for stride in (1, 2, 4, 8)}
    assert len(found) == 3
    assert found.isfinite().all()
    if not isinstance(method, CLAMPED):
        assert found.abs().amax(dim=(1, 2)).min() > 0
    assert method.kind == "attribution" or found.min() >= 0
    assert torch.equal(method.attribute(images(), TARGETS), found)  # again, the same


def test_a_batch_is_explained_as_its_images_one_by_one(method):
    found = method.attribute(images(), TARGETS)
    close(torch.cat([method.attribute(images()[i : i + 1], TARGETS[i : i + 1]) for i in range(3)]), found)
    method.max_batch = 2
    close(method.attribute(images(), TARGETS), found)


def test_maps_of_all_classes_are_those_of_each(method):
    found = method.attribute_all(images())
    assert found.shape[:2] == (3, NUM_CLASSES)
    for k in range(NUM_CLASSES):
        close(method.attribute(images(), k), found[:, k])
    spread = (found - found.mean(dim=1, keepdim=True)).abs().max() / found.abs().max()
    assert (spread > 1e-4) == method.class_specific


def test_by_default_the_predicted_class_is_explained(method):
    with torch.no_grad():
        predicted = method.model(images()).argmax(dim=1)
    close(method.attribute(images()), method.attribute(images(), predicted))


def test_neither_frozen_weights_nor_the_callers_modes_matter(method):
    found = method.attribute(images(), TARGETS)
    method.model.requires_grad_(False)
    with torch.no_grad():
        close(method.attribute(images(), TARGETS), found)
    with torch.inference_mode():
        close(method.attribute(images() + 0, TARGETS), found)
    method.model.train()
    close(method.attribute(images(), TARGETS), found)


def test_the_model_is_left_as_it_came(method):
    model = unsettle(method.model)
    before, image = state(model), images()
    method.attribute(image, TARGETS)
    method.attribute(image)
    method.attribute_all(image[:1])
    assert state(model) == before
    assert torch.equal(image, images())
    assert image.grad is None
    assert not image.requires_grad


@pytest.mark.parametrize("calls", [0, 1])
def test_the_model_is_left_as_it_came_after_an_error(method, calls):
    if isinstance(method, Random):
        pytest.skip("asks no model")
    model, seen = unsettle(method.model), []

    def fail(module: nn.Module, *_: Any) -> None:
        seen.append(module)
        if len(seen) > calls:
            raise RuntimeError("on purpose")

    list(model.modules())[-1].register_forward_hook(fail)
    before = state(model)
    method.max_batch = 1  # so that there is a second call of every method
    with pytest.raises(RuntimeError, match="on purpose"):
        method.attribute(images(), TARGETS)
    assert state(model) == before


def test_double_precision_in_double_precision_out(method):
    found = method.attribute(images(), TARGETS)
    method.model.double()
    exact = method.attribute(images().double(), TARGETS)
    assert exact.dtype == torch.float64
    torch.testing.assert_close(found.double() / exact.abs().max(), exact / exact.abs().max(), rtol=0, atol=2e-2)
