"""What is recorded is what the network computed, gradients by it included; and nothing of the recorder stays."""

import math
from typing import Any

import pytest
import timm.layers.attention
import timm.models.eva
import torch
from timm.models.vision_transformer import ParallelThingsBlock, VisionTransformer
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS
from fastshap_lab.attribution.base import gradients, hooked, restoring
from fastshap_lab.attribution.recording import (
    find_token_network,
    recorded_activations,
    recorded_attention,
    recorded_inputs,
    unrecordable,
)
from fastshap_lab.errors import UserError
from tests.attribution.by_hand import by_attention, forward_by_hand
from tests.attribution.families import GRID, TOKENS, family, images
from tests.attribution.subjects import IMAGES, TARGETS, model_and_network, state, unsettle

WITH_ATTENTION = ["vit", "distilled", "registers", "mean", "eva", "eva_mean"]


@pytest.fixture
def fused_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, Tensor]]:
    """Queries and keys that fused attention was given."""
    calls = []

    def attend(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        calls.append((query, key))
        return original(query, key, value, **options)

    original = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attend)
    return calls


@pytest.mark.parametrize("name", WITH_ATTENTION)
@torch.no_grad()
def test_scores_and_attention_are_those_of_the_fused_pass(name, fused_calls):
    model = family(name)
    logits = model(images())
    assert len(fused_calls) == 3
    with recorded_attention(find_token_network(model)) as record:
        torch.testing.assert_close(model(images()), logits, rtol=1e-5, atol=1e-5)
    assert len(fused_calls) == 3
    assert record.grid == GRID
    for (query, key), scores, attention in zip(fused_calls, record.scores, record.attention, strict=True):
        expected = torch.einsum("bhqd,bhkd->bhqk", query, key) / math.sqrt(query.shape[-1])
        torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(attention, expected.softmax(dim=-1), rtol=1e-4, atol=1e-6)
    model(images())
    assert len(fused_calls) == 6


@pytest.mark.parametrize("name", ["vit", "distilled"])
@pytest.mark.parametrize("detached", [False, True])
def test_gradients_are_those_after_the_softmax(name, detached):
    model, network, normalize = model_and_network(name)
    with restoring(model), recorded_attention(network, detach_inputs=detached) as record:
        found = gradients(model(IMAGES), TARGETS, record.attention)
    for i, (image, target) in enumerate(zip(normalize(IMAGES), TARGETS.tolist(), strict=True)):
        done = forward_by_hand(network, image)
        for layer, expected in enumerate(by_attention(network, image, target, detached)):
            torch.testing.assert_close(found[layer][i], expected, rtol=1e-9, atol=1e-12)
            torch.testing.assert_close(record.attention[layer][i], done.blocks[layer].attention)
            torch.testing.assert_close(record.scores[layer][i], done.blocks[layer].scores)


def test_an_image_of_another_size_has_another_grid():
    network = VisionTransformer(**TOKENS, dynamic_img_size=True).eval()
    with recorded_attention(network) as record:
        network(torch.rand(1, 3, 16, 8))
    assert record.grid == (4, 2)
    assert record.attention[0].shape == (1, 3, 9, 9)


class SoftmaxOfItsOwn(timm.layers.attention.Attention):
    """Attention that computes its softmax where the recorder does not see it."""

    def forward(self, x: Tensor, *_: Any, **__: Any) -> Tensor:
        query, key, value = self.qkv(x).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        weights = torch.exp(query @ key.mT * self.scale)
        return self.proj((weights / weights.sum(dim=-1, keepdim=True) @ value).transpose(1, 2).flatten(2))


@torch.no_grad()
def test_a_block_without_exactly_one_attention_matrix_is_refused():
    network = VisionTransformer(**TOKENS).eval()
    with recorded_attention(network) as record:
        network(images())
    assert len(record.attention) == 3
    twice = pytest.raises(UserError, match=r"block 0 of this VisionTransformer: 2 attention matrices .* must be one")
    with twice, recorded_attention(network):
        network(images())
        network(images())
    with pytest.raises(RuntimeError, match="the pass failed"), recorded_attention(network):
        raise RuntimeError("the pass failed")  # which nothing hides
    logits = network(images())
    own = SoftmaxOfItsOwn(12, num_heads=3, qkv_bias=True)
    own.load_state_dict(network.blocks[1].attn.state_dict())
    network.blocks[1].attn = own
    torch.testing.assert_close(network(images()), logits, rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match=r"block 1 of this VisionTransformer: 0 attention matrices .* must be one"):
        METHODS["rollout"](network).attribute(images())


def test_models_without_one_network_of_ordinary_attention_say_so():
    assert "several vision transformers" in unrecordable(nn.Sequential(family("vit"), family("vit")))
    assert "SwinTransformer has no attention between all" in unrecordable(family("swin"))
    assert "ResNet has no attention" in unrecordable(family("resnet"))
    for change in ({"block_fn": ParallelThingsBlock}, {"attn_layer": "diff"}):
        assert "each have one ordinary self-attention" in unrecordable(
            VisionTransformer(**(TOKENS | {"num_heads": 2} | change))
        )
    assert [unrecordable(family(name)) for name in WITH_ATTENTION] == [None] * 6


def test_every_kind_of_attention_that_is_recorded_has_the_switch_that_is_turned():
    for kind in (timm.layers.attention.Attention, timm.layers.attention.AttentionRope, timm.models.eva.EvaAttention):
        options = {"norm_layer": nn.LayerNorm} if kind is timm.models.eva.EvaAttention else {}
        assert kind(12, num_heads=3, **options).fused_attn


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Linear(4, 5)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(self.act(self.conv(image)).square().mean(dim=(2, 3)))


@pytest.mark.parametrize("trained", [True, False])
def test_activations_and_their_gradients_survive_work_in_place(trained):
    torch.manual_seed(0)
    model, target = InPlace().requires_grad_(trained), torch.tensor([1, 4, 0])
    with recorded_activations([model.conv]) as outputs, recorded_inputs([model.head]) as inputs:
        logits = model(images())
    activation = outputs[model.conv]
    torch.testing.assert_close(activation, model.conv(images()))
    torch.testing.assert_close(inputs[model.head], activation.relu().square().mean(dim=(2, 3)))
    weight = model.head.weight[target].view(3, 4, 1, 1)
    expected = weight * 2 * activation.relu() / activation[0, 0].numel()
    torch.testing.assert_close(gradients(logits, target, [activation])[0], expected)


def test_what_has_no_influence_has_zero_gradient():
    model, apart = InPlace(), torch.ones(2, requires_grad=True)
    assert torch.equal(gradients(model(images()), torch.zeros(3, dtype=torch.long), [apart])[0], torch.zeros(2))


@pytest.mark.parametrize("fails", [False, True])
def test_recorders_leave_the_model_as_it_came(fails):
    model = unsettle(family("vit"))
    before, raised = state(model), False
    try:
        with restoring(model), recorded_attention(find_token_network(model), True) as record:
            assert not any(module.training for module in model.modules())
            with recorded_activations(list(model.network.blocks)), recorded_inputs([model.network.head]):
                gradients(model(images()), torch.tensor([0, 1, 2]), record.attention)
                if fails:
                    raise RuntimeError
    except RuntimeError:
        raised = True
    assert len(record.attention) == 3  # recomputation of activations would have recorded them twice
    assert raised == fails
    assert state(model) == before


def test_hooks_registered_before_one_fails_are_removed():
    model = family("vit")
    before = state(model)
    register = [lambda: model.network.head.register_forward_hook(print), lambda: model.network.no_such_layer]
    with pytest.raises(AttributeError, match="no_such_layer"), hooked(register):
        pass
    assert state(model) == before
