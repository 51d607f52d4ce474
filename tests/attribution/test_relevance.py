"""Relevance of attention, against the rules written out entry by entry."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS
from fastshap_lab.attribution.head_relevance import head_weights
from fastshap_lab.attribution.relevance import divide, linear_rule, residual_rule
from fastshap_lab.errors import UserError
from tests.attribution.by_hand import by_attention, forward_by_hand, heads_of
from tests.attribution.families import GRID, TOKENS, family, images
from tests.attribution.subjects import IMAGES, TARGETS, model_and_network


def div(a: float, b: float) -> float:
    return 0.0 if b == 0 else a / (b + 1e-9)


def linear(weight: Tensor, given: Tensor, relevance: Tensor, separate: bool) -> Tensor:
    """One row of tokens after the other, one output after the other."""
    result = torch.zeros_like(given)
    for t in range(len(given)):
        for j in range(len(weight)):
            parts = weight[j] * given[t]
            excited, inhibited = (parts > 0) & (given[t] > 0), (parts > 0) & (given[t] < 0)
            groups = [excited, inhibited] if separate else [excited | inhibited]
            for group in groups:
                result[t] += torch.where(group, parts, 0) * div(relevance[t, j].item(), parts[group].sum().item())
    return result


def residual(a: Tensor, b: Tensor, relevance: Tensor, rescale: bool) -> tuple[Tensor, Tensor]:
    pairs = zip(relevance.flatten().tolist(), (a + b).flatten().tolist(), strict=True)
    share = torch.tensor([div(r, z) for r, z in pairs], dtype=a.dtype).view_as(a)
    parts = [a * share, b * share]
    if rescale:
        sums = [part.sum().item() for part in parts]
        fractions = [abs(own) / (abs(sums[0]) + abs(sums[1])) for own in sums]
        whole = relevance.sum().item()
        parts = [part * div(f * whole, own) for part, f, own in zip(parts, fractions, sums, strict=True)]
    return parts[0], parts[1]


def product(left: Tensor, right: Tensor, relevance: Tensor) -> tuple[Tensor, Tensor]:
    out = left @ right
    by_left, by_right = torch.zeros_like(left), torch.zeros_like(right)
    for i in range(out.shape[0]):
        for m in range(out.shape[1]):
            share = div(relevance[i, m].item(), out[i, m].item())
            by_left[i] += 0.5 * left[i] * right[:, m] * share
            by_right[:, m] += 0.5 * left[i] * right[:, m] * share
    return by_left, by_right


@torch.no_grad()
def relevance_of_attention(network: VisionTransformer, pixels: Tensor, target: int, partial: bool) -> list[Tensor]:
    """Return (A, T, T) block by block, from the image on."""
    done, heads = forward_by_hand(network, pixels), heads_of(network)
    relevance = torch.zeros_like(done.blocks[-1].x0)
    for token, (head, given) in enumerate(zip(heads, done.pooled, strict=True)):
        start = torch.zeros(1, len(done.logits), dtype=pixels.dtype)
        start[0, target] = 1 / len(heads)
        relevance[token] = linear(head.weight, given[None], start, partial)[0]
    found = []
    for block, by_hand in zip(reversed(network.blocks), reversed(done.blocks), strict=True):
        relevance, inside = residual(by_hand.x1, by_hand.mixed, relevance, not partial)
        inside = linear(block.mlp.fc2.weight, by_hand.hidden, inside, partial)
        relevance = relevance + linear(block.mlp.fc1.weight, by_hand.normed2, inside, partial)
        relevance, inside = residual(by_hand.x0, by_hand.attended, relevance, not partial)
        inside = linear(block.attn.proj.weight, by_hand.heads, inside, partial)
        per_head, queries, keys, values = [], [], [], []
        for a, part in enumerate(inside.chunk(block.attn.num_heads, dim=1)):
            by_weights, by_values = product(by_hand.attention[a], by_hand.values[a], part)
            by_queries, by_keys = product(by_hand.queries[a], by_hand.keys[a].T, by_weights)
            per_head.append(by_weights)
            queries.append(by_queries)
            keys.append(by_keys.T)
            values.append(by_values)
        found.append(torch.stack(per_head))
        inside = torch.cat([*queries, *keys, *values], dim=1)
        relevance = relevance + linear(block.attn.qkv.weight, by_hand.normed1, inside, partial)
    return found[::-1]


def cgw1(network: nn.Module, pixels: Tensor, target: int, start: int) -> Tensor:
    total = torch.eye(len(forward_by_hand(network, pixels).blocks[0].x0), dtype=pixels.dtype)
    found = relevance_of_attention(network, pixels, target, partial=False)
    for weights, gradient in list(zip(found, by_attention(network, pixels, target), strict=True))[start:]:
        total = (torch.eye(len(total)) + (weights * gradient).relu().mean(dim=0)) @ total
    return total


def partial_lrp(network: nn.Module, pixels: Tensor, target: int, grad: bool) -> Tensor:
    last = relevance_of_attention(network, pixels, target, partial=True)[-1]
    return (last * (by_attention(network, pixels, target)[-1] if grad else 1)).relu().mean(dim=0)


def head_relevance(network: nn.Module, pixels: Tensor, target: int) -> Tensor:
    found = relevance_of_attention(network, pixels, target, partial=False)
    gradients = by_attention(network, pixels, target)
    attention = [block.attention for block in forward_by_hand(network, pixels).blocks]
    weights = [[max(head.mean().item(), 0) for head in layer] for layer in found]
    whole = sum(sum(layer) for layer in weights)
    total = torch.zeros_like(attention[0][0])
    for layer in range(len(found)):
        for head in range(len(found[layer])):
            total += weights[layer][head] / whole * attention[layer][head] * gradients[layer][head]
    return total


CASES = {
    "cgw1": ("cgw1", {}, lambda *given: cgw1(*given, start=0)),
    "cgw1 from the second block": ("cgw1", {"start_layer": 1}, lambda *given: cgw1(*given, start=1)),
    "partial_lrp": ("partial_lrp", {}, lambda *given: partial_lrp(*given, grad=False)),
    "partial_lrp with gradient": ("partial_lrp", {"grad": True}, lambda *given: partial_lrp(*given, grad=True)),
    "head_relevance": ("head_relevance", {}, head_relevance),
}


@pytest.mark.parametrize("name", ["vit", "distilled"])
@pytest.mark.parametrize("case", CASES)
def test_methods_follow_their_formulas(case, name):
    model, network, normalize = model_and_network(name)
    method, options, relation = CASES[case]
    found = METHODS[method](model, **options).attribute(IMAGES[:2], TARGETS[:2])
    for image, target, own in zip(normalize(IMAGES), TARGETS.tolist(), found, strict=False):
        wanted = relation(network, image, target)[0, 2 if name == "distilled" else 1 :].reshape(GRID)
        assert wanted.abs().max() > 1e-7
        torch.testing.assert_close(own / wanted.abs().max(), wanted / wanted.abs().max(), rtol=0, atol=1e-7)


def test_a_residual_sum_is_rescaled_for_each_image_by_itself():
    left, right, relevance = torch.randn(3, 4, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    together = residual_rule(left, right, relevance, rescale=True)
    for i in range(4):
        alone = residual_rule(left[i : i + 1], right[i : i + 1], relevance[i : i + 1], rescale=True)
        for part, own in zip(together, alone, strict=True):
            torch.testing.assert_close(part[i], own[0])
        expected = residual(left[i], right[i], relevance[i], rescale=True)
        for part, own in zip(together, expected, strict=True):
            torch.testing.assert_close(part[i], own, rtol=1e-6, atol=1e-6)


def test_nothing_is_divided_by_nothing():
    assert torch.equal(divide(torch.tensor([1.0, 0, 2]), torch.tensor([0.0, 0, 1])), torch.tensor([0.0, 0, 2]))
    zero = torch.zeros(1, 2, 3)
    assert all(torch.equal(part, zero) for part in residual_rule(zero, zero, zero, rescale=True))
    layer = nn.Linear(3, 3, bias=False).requires_grad_(False)
    for separate in (True, False):
        assert torch.equal(linear_rule(layer, zero, zero + 1, separate), zero)


def test_separate_shares_are_about_twice_as_much():
    layer = nn.Linear(40, 6, dtype=torch.float64).requires_grad_(False)
    given, relevance = torch.randn(5, 40, dtype=torch.float64), torch.rand(5, 6, dtype=torch.float64)
    for separate, factor in ((False, 1), (True, 2)):
        total = linear_rule(layer, given, relevance, separate).sum(dim=1)
        torch.testing.assert_close(total, factor * relevance.sum(dim=1), rtol=1e-6, atol=1e-6)


def test_heads_without_relevance_weigh_nothing():
    assert torch.equal(head_weights(-torch.rand(2, 3, 4, 5, 5)), torch.zeros(2, 3, 4))
    torch.testing.assert_close(head_weights(torch.randn(2, 3, 4, 5, 5)).sum(dim=(1, 2)), torch.ones(2))


class Halved(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network(image) / 2


def test_what_has_no_rule_is_refused():
    parts = {
        "head": nn.Sequential(nn.Linear(12, 4)),
        "blocks": nn.Sequential(VisionTransformer(**TOKENS, block_fn=_gated()).blocks[0]),
    }
    for name, part in parts.items():
        network = VisionTransformer(**TOKENS)
        setattr(network, name, part)
        with pytest.raises(UserError, match="no relevance rules for some layers of this VisionTransformer"):
            METHODS["cgw1"](network)
    with pytest.raises(UserError, match="CGW1: the model must return the network's logits unchanged"):
        METHODS["cgw1"](Halved(family("distilled"))).attribute(images())


def _gated() -> type[nn.Module]:
    from timm.layers import GluMlp
    from timm.models.vision_transformer import Block

    class GatedBlock(Block):
        def __init__(self, **arguments) -> None:
            super().__init__(**(arguments | {"mlp_layer": GluMlp}))

    return GatedBlock
