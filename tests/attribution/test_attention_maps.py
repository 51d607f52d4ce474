"""Methods on attention and its gradients, against slow versions of their formulas, image by image."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS
from fastshap_lab.attribution.rollout import discard_smallest, rollout
from fastshap_lab.attribution.saw import gradient_mass
from fastshap_lab.attribution.score_matrix import score_matrix
from fastshap_lab.errors import UserError
from fastshap_lab.images import normalize_map
from tests.attribution.by_hand import by_attention, forward_by_hand
from tests.attribution.families import GRID, NUM_CLASSES, family, images
from tests.attribution.subjects import IMAGES, TARGETS, model_and_network


def attention_of(network: nn.Module, pixels: Tensor) -> list[Tensor]:
    return [block.attention for block in forward_by_hand(network, pixels).blocks]


def raw_attention(network: nn.Module, pixels: Tensor, target: int, layer: int = -1, head: int | None = None) -> Tensor:
    attention = attention_of(network, pixels)[layer]
    return sum(attention) / len(attention) if head is None else attention[head]


def plain_rollout(network: nn.Module, pixels: Tensor, target: int, start: int = 0) -> Tensor:
    total = None
    for attention in attention_of(network, pixels)[start:]:
        mixed = (attention.mean(dim=0) + torch.eye(attention.shape[-1])) / 2
        total = mixed if total is None else mixed @ total
    return total


def without_smallest(matrix: Tensor, ratio: float, spared: set[int]) -> Tensor:
    values = matrix.flatten().tolist()
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    for i in order[: math.floor(ratio * len(values))]:
        values[i] = values[i] if i in spared else 0
    return torch.tensor(values, dtype=matrix.dtype).view_as(matrix)


def chain(layers: list[Tensor]) -> Tensor:
    size = len(layers[0])
    total = [[float(i == j) for j in range(size)] for i in range(size)]
    for layer in layers:
        mixed = ((layer + torch.eye(size)) / 2).tolist()
        mixed = [[entry / sum(row) for entry in row] for row in mixed]
        total = [[sum(mixed[i][k] * total[k][j] for k in range(size)) for j in range(size)] for i in range(size)]
    return torch.tensor(total, dtype=torch.float64)


def discarding_rollout(fuse: Callable[[Tensor], Tensor], ratio: float) -> Callable[[nn.Module, Tensor, int], Tensor]:
    return lambda network, pixels, target: chain(
        [without_smallest(fuse(a), ratio, spared={0}) for a in attention_of(network, pixels)]
    )


def gradient_rollout(network: nn.Module, pixels: Tensor, target: int, ratio: float = 0.9) -> Tensor:
    pairs = zip(attention_of(network, pixels), by_attention(network, pixels, target), strict=True)
    fused = [torch.stack([a * g for a, g in zip(*pair, strict=True)]).mean(dim=0).relu() for pair in pairs]
    return chain([without_smallest(layer, ratio, spared=set()) for layer in fused])


def cgw2(network: nn.Module, pixels: Tensor, target: int) -> Tensor:
    total = torch.eye(attention_of(network, pixels)[0].shape[-1], dtype=torch.float64)
    for attention, gradient in zip(attention_of(network, pixels), by_attention(network, pixels, target), strict=True):
        heads = [(a * g).relu() for a, g in zip(attention, gradient, strict=True)]
        total = total + sum(heads) / len(heads) @ total
    return total


def ag_cam(network: nn.Module, pixels: Tensor, target: int, detached: bool = True) -> Tensor:
    total = torch.zeros(())
    blocks = forward_by_hand(network, pixels).blocks
    for block, gradient in zip(blocks, by_attention(network, pixels, target, detached), strict=True):
        for scores, by_head in zip(block.scores, gradient, strict=True):
            total = total + 1 / (1 + (-scores).exp()) * by_head.relu()
    return total


def saw(network: nn.Module, pixels: Tensor, target: int, uniform: bool = False) -> Tensor:
    found = by_attention(network, pixels, target)
    mass = [1.0 if uniform else gradient.relu().mean().item() for gradient in found]
    layers = [(a * g).relu().mean(dim=0) for a, g in zip(attention_of(network, pixels), found, strict=True)]
    return sum(m / sum(mass) * layer for m, layer in zip(mass, layers, strict=True))


CASES: dict[str, tuple[str, dict, Callable[..., Tensor]]] = {
    "raw_attention": ("raw_attention", {}, raw_attention),
    "raw_attention of a head": (
        "raw_attention",
        {"layer": 1, "head": 2},
        lambda *given: raw_attention(*given, layer=1, head=2),
    ),
    "rollout": ("rollout", {}, plain_rollout),
    "rollout from the second block": ("rollout", {"start_layer": 1}, lambda *given: plain_rollout(*given, start=1)),
    "rollout of maxima": (
        "rollout",
        {"fusion": "max", "discard_ratio": 0.9},
        discarding_rollout(lambda a: a.max(dim=0).values, 0.9),
    ),
    "rollout of minima": (
        "rollout",
        {"fusion": "min", "discard_ratio": 0.5},
        discarding_rollout(lambda a: a.min(dim=0).values, 0.5),
    ),
    "gradient_rollout": ("gradient_rollout", {}, gradient_rollout),
    "gradient_rollout of all": (
        "gradient_rollout",
        {"discard_ratio": 0.0},
        lambda *given: gradient_rollout(*given, ratio=0),
    ),
    "cgw2": ("cgw2", {}, cgw2),
    "ag_cam": ("ag_cam", {}, ag_cam),
    "saw": ("saw", {}, saw),
    "uniform saw": ("saw", {"weights": "uniform"}, lambda *given: saw(*given, uniform=True)),
}


def expected(network: nn.Module, pixels: Tensor, relation: Callable[..., Tensor], rows: str) -> Tensor:
    prefix = 2 if hasattr(network, "dist_token") else 1
    maps = []
    for image, target in zip(pixels, TARGETS.tolist(), strict=True):
        matrix = relation(network, image, target)
        row = matrix[0] if rows == "class" else (matrix[0] + matrix[1]) / 2
        maps.append(row[prefix:].reshape(GRID))
    return torch.stack(maps)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("name", "rows"), [("vit", "class"), ("distilled", "class"), ("distilled", "prefix_mean")])
def test_methods_follow_their_formulas(case, name, rows):
    model, network, normalize = model_and_network(name)
    method, options, relation = CASES[case]
    found = METHODS[method](model, rows=rows, **options).attribute(IMAGES, TARGETS)
    wanted = expected(network, normalize(IMAGES), relation, rows)
    assert wanted.abs().max() > 1e-4
    torch.testing.assert_close(found / wanted.abs().max(), wanted / wanted.abs().max(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("start", [None, 0, 2])
@pytest.mark.parametrize("max_batch", [2, 32])
def test_tam_carries_the_class_row_back_and_weights_it(start, max_batch):
    model, network, normalize = model_and_network("vit")
    steps, maps = 4, []
    for image, target in zip(normalize(IMAGES), TARGETS.tolist(), strict=True):
        heads = [attention.mean(dim=0) for attention in attention_of(network, image)]
        state = heads[-1][0]
        for layer in range(1, (round(3 / 3) if start is None else start) - 1, -1):
            state = state @ heads[layer] + state
        scaled = [by_attention(network, k / (steps - 1) * image, target)[-1] for k in range(steps)]
        weight = (sum(scaled) / steps).relu().mean(dim=0)[0]
        maps.append((state * weight)[1:].reshape(GRID))
    options = {} if start is None else {"start_layer": start}
    found = METHODS["tam"](model, steps=steps, max_batch=max_batch, **options).attribute(IMAGES, TARGETS)
    torch.testing.assert_close(found, torch.stack(maps), rtol=1e-9, atol=1e-12)


def test_ag_cam_cuts_the_graph_before_every_attention_even_of_a_frozen_network():
    model, network, normalize = model_and_network("vit")
    leaking = expected(network, normalize(IMAGES), lambda *given: ag_cam(*given, detached=False), "class")
    model.requires_grad_(False)
    found = METHODS["ag_cam"](model).attribute(IMAGES, TARGETS)
    assert (found - leaking).abs().max() > 1e-3 * leaking.max()
    assert found.max() > 0


def test_raw_attention_of_all_heads_holds_every_map():
    model = family("vit")
    maps = METHODS["raw_attention"](model).all_heads(images())
    assert maps.shape == (3, 3, 3, *GRID)
    for layer in range(3):
        own = METHODS["raw_attention"](model, layer=layer).attribute(images())
        torch.testing.assert_close(maps[:, layer].mean(dim=1), own)
        for head in range(3):
            own = METHODS["raw_attention"](model, layer=layer, head=head).attribute(images())
            torch.testing.assert_close(maps[:, layer, head], own)


@pytest.mark.parametrize("reading", ["key", "query", "head"])
def test_score_matrix_takes_maxima_over_the_axis_it_names(reading):
    model, network, normalize = model_and_network("distilled")
    maps = []
    for image in normalize(IMAGES):
        layers = []
        for block in forward_by_hand(network, image).blocks:
            a = block.attention[:, 2:, 2:].tolist()
            heads, patches = range(3), range(6)
            if reading == "key":
                row = [sum(max(a[h][i][j] for i in patches) for h in heads) / 3 for j in patches]
            elif reading == "query":
                row = [sum(max(a[h][i][j] for j in patches) for h in heads) / 3 for i in patches]
            else:
                row = [sum(max(a[h][i][j] for h in heads) for i in patches) / 6 for j in patches]
            layers.append(torch.tensor(row, dtype=torch.float64).reshape(GRID))
        maps.append(torch.stack(layers))
    method = METHODS["score_matrix"](model, reading=reading)
    torch.testing.assert_close(method.all_layers(IMAGES), torch.stack(maps))
    torch.testing.assert_close(method.attribute(IMAGES), torch.stack(maps)[:, -1])
    assert score_matrix(torch.rand(2, 3, 5, 5), reading).shape == (2, 5)


@pytest.mark.parametrize("ratio", [0.0, 0.5, 0.9])
def test_rows_of_a_rollout_sum_to_one(ratio):
    layers = [torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(3)]
    total = rollout([discard_smallest(layer, ratio, keep_first=True) for layer in layers])
    torch.testing.assert_close(total.sum(dim=-1), torch.ones(2, 7, dtype=torch.float64))


def test_the_smallest_are_discarded_in_every_image_first_of_equals_first():
    matrix = torch.tensor([[[0.1, 0.5], [0.3, 0.3]], [[0.4, 0.1], [0.2, 0.6]]])
    expected = torch.tensor([[[0, 0.5], [0, 0.3]], [[0.4, 0], [0, 0.6]]])
    assert torch.equal(discard_smallest(matrix, 0.5, keep_first=False), expected)
    expected[0, 0, 0] = 0.1
    assert torch.equal(discard_smallest(matrix, 0.5, keep_first=True), expected)
    assert torch.equal(discard_smallest(torch.ones(1, 2, 2), 0.99, False), torch.tensor([[[0.0, 0], [0, 1]]]))


def test_query_mean_averages_the_rows_of_a_network_that_pools_its_patches():
    model = family("mean")
    with pytest.raises(UserError, match=r"Rollout: .*no class token; rows=query_mean"):
        METHODS["rollout"](model)
    whole = METHODS["rollout"](model, rows="query_mean").attribute(images())
    torch.testing.assert_close(whole.sum(dim=(1, 2)), torch.ones(3))  # there are no prefix tokens to lose any to
    for name in ("cgw2", "ag_cam", "saw", "tam", "gradient_rollout"):
        found = METHODS[name](model, rows="query_mean").attribute(images())
        assert found.shape == (3, *GRID)
        assert found.max() > 0


def test_prefix_mean_is_for_distilled_networks_alone():
    with pytest.raises(UserError, match="rows=prefix_mean needs a distilled DeiT"):
        METHODS["cgw2"](family("registers"), rows="prefix_mean")


@pytest.mark.parametrize("name", ["gradient_rollout", "cgw1", "cgw2", "head_relevance", "tam", "ag_cam", "saw"])
def test_without_any_gradient_maps_are_zero(name):
    model = family("vit")
    nn.init.zeros_(model.network.head.weight)
    found = METHODS[name](model).attribute(images(), 1)
    assert torch.equal(found, torch.zeros(3, *GRID))
    assert torch.equal(normalize_map(found), found)


def test_layers_without_positive_gradients_share_equally():
    none = [-torch.rand(2, 3, 4, 4) for _ in range(4)]
    assert torch.equal(gradient_mass(none), torch.full((2, 4), 0.25))


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("rollout", {"start_layer": 3}, "start_layer=3: blocks are numbered 0 to 2"),
        ("rollout", {"discard_ratio": 1.0}, "discard_ratio=1.0: must be at least 0 and below 1"),
        ("raw_attention", {"layer": -4}, "layer=-4: blocks are numbered 0 to 2"),
        ("raw_attention", {"head": 3}, "head=3: heads are numbered 0 to 2"),
        ("tam", {"steps": 1}, "steps=1: must be at least 2"),
        ("cgw2", {"max_batch": 0}, "max_batch=0: must be a whole number of 1 or more"),
    ],
)
def test_impossible_options_are_named(name, options, line):
    with pytest.raises(UserError, match=line):
        METHODS[name](family("vit"), **options)


def test_classes_are_numbered():
    method = METHODS["cgw2"](family("vit"))
    for target, known in ((NUM_CLASSES, "0 to 3"), (-1, "from 0"), (torch.tensor([0, 1, 4]), "0 to 3")):
        with pytest.raises(UserError, match=f"classes are numbered {known}"):
            method.attribute(images(), target)
