"""What every entry of ``EXPLAINERS`` promises."""

from typing import Any

import pytest
import torch

from fastshap_lab.models import Explainer, build_explainer, takes_backbone
from fastshap_lab.models.explainers import EXPLAINERS
from tests import small

PARAMS: dict[str, dict[str, Any]] = {"unet": {"channels": [4, 6, 8]}, "vit": {"mlp_ratio": 2.0}}
# Image sizes with player grids: square, rectangular, of single pixels, one row, finer than the patches of 2 pixels in
# one direction and coarser in the other, no whole number of either's tokens.
SHAPES = [
    ((8, 8), (4, 4)),
    ((8, 12), (2, 3)),
    ((8, 12), (8, 12)),
    ((8, 12), (1, 4)),
    ((8, 12), (8, 2)),
    ((12, 8), (3, 8)),
]


def explainer_of(name: str, image_size: tuple[int, int], grid: tuple[int, int], scrambled: bool = False) -> Explainer:
    description = small.network(name, image_size) | {"params": dict(PARAMS.get(name, {})), "grid": grid}
    if takes_backbone(name):
        description["params"]["backbone"] = {"name": "vit", "params": small.PARAMS["vit"]}
    if scrambled:
        return small.scrambled(lambda: build_explainer(**description))
    torch.manual_seed(0)
    return build_explainer(**description)


@pytest.fixture(params=[(name, *shape) for name in EXPLAINERS for shape in SHAPES], ids=str)
def case(request: pytest.FixtureRequest) -> tuple[str, tuple[int, int], tuple[int, int]]:
    return request.param


def test_a_value_for_every_player_and_class_and_a_gradient_everywhere(case):
    explainer, image = explainer_of(*case).train(), small.images(3, case[1])
    raw = explainer(image)
    assert raw.shape == (3, explainer.grid.num_players, 3)
    assert raw.isfinite().all()
    (raw * torch.randn(raw.shape)).sum().backward()
    assert [name for name, parameter in explainer.named_parameters() if not parameter.grad.any()] == []


@torch.inference_mode()
def test_a_batch_is_explained_as_its_images_one_by_one(case):
    explainer, image = explainer_of(*case, scrambled=True), small.images(3, case[1])
    raw = explainer(image)
    one_by_one = torch.cat([explainer(image[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(raw, one_by_one, rtol=1e-5, atol=1e-5)
    assert (raw.std(dim=0) > 1e-4).float().mean() > 0.9  # values depend on the image
    assert (raw.std(dim=2) > 1e-4).float().mean() > 0.9  # and on the class


@pytest.mark.parametrize("name", EXPLAINERS)
@torch.inference_mode()
def test_images_are_normalized_inside(name):
    explainer, image = explainer_of(name, (8, 12), (2, 3), scrambled=True), small.images()
    normalized = small.classifier("resnet").normalize(image)
    torch.testing.assert_close(explainer(image), explainer.predict(normalized))
    assert not {"mean", "std"} & explainer.state_dict().keys()


@pytest.mark.parametrize("name", EXPLAINERS)
@torch.inference_mode()
def test_a_fresh_explainer_says_little(name):
    raw = explainer_of(name, (8, 12), (4, 6)).train()(small.images(16))
    assert 0 < raw.square().mean().sqrt() < 0.05


@pytest.mark.parametrize("network", ["resnet", "vit"])
@pytest.mark.parametrize("name", EXPLAINERS)
def test_any_surrogate_may_be_what_it_starts_from(name, network):
    explainer = explainer_of(name, (8, 12), (4, 6))
    explainer.start_from(small.classifier(network).network)
    assert explainer(small.images()).isfinite().all()
    assert all(parameter.requires_grad for parameter in explainer.parameters())
