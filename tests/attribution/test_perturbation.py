"""Occlusion, RISE, ViT-CX, Shapley values and Random, against loops, expectations, exact values and captum."""

import itertools
import math

import captum.attr
import pytest
import shapiq
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from fastshap_lab.attribution import METHODS
from fastshap_lab.attribution.occlusion import LeaveOneOut, Occlusion
from fastshap_lab.attribution.perturbation_method import default_grid
from fastshap_lab.attribution.random import Random
from fastshap_lab.attribution.rise import RISE, RandomMasks
from fastshap_lab.attribution.shapley import KernelSHAPValues
from fastshap_lab.attribution.vit_cx import ViTCX, cluster
from fastshap_lab.errors import UserError
from fastshap_lab.models import ModelGame
from fastshap_lab.models.maskings import Constant
from fastshap_lab.shapley import LINKS, Game, PlayerGrid, Segments, exact_shapley_values
from tests import small
from tests.attribution.by_hand import forward_by_hand
from tests.attribution.families import GRID, NUM_CLASSES, family, images
from tests.attribution.subjects import OPTIONS

IMAGES = images(2, dtype=torch.float64)


class Linear(nn.Module):
    """Logits linear in the pixels."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.weight = nn.Parameter(torch.randn(2, 1, *size, generator=generator).double())

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.einsum("kchw,bchw->bk", self.weight, pixels) + 0.3


@pytest.mark.parametrize(
    ("window", "stride"), [((4, 4), (2, 3)), ((3, 5), (2, 2)), ((2, 2), (2, 2)), ((20, 20), (1, 1))]
)
@pytest.mark.parametrize("link", ["softmax", "logits"])
def test_occlusion_is_captums(window, stride, link):
    model = family("vit").double()
    colour = model.mean.expand(1, 3, *small.IMAGE_SIZE)
    inside = tuple(min(pair) for pair in zip(window, small.IMAGE_SIZE, strict=True))  # it refuses larger windows
    given = {"sliding_window_shapes": (3, *inside), "strides": (3, *stride), "baselines": colour, "target": 1}
    with torch.no_grad():
        theirs = captum.attr.Occlusion(lambda x: LINKS[link](model(x))).attribute(IMAGES, **given)[:, 0]
    found = Occlusion(model, window, stride, link=link, max_batch=4).attribute(IMAGES, 1)
    torch.testing.assert_close(found.float(), theirs, rtol=1e-5, atol=1e-6)  # theirs are rounded


def test_leaving_out_one_patch_is_occlusion_by_windows_of_its_size():
    model = family("resnet").double()
    patches = LeaveOneOut(model, GRID).attribute(IMAGES, 2)
    assert patches.shape == (2, *GRID)
    pixels = Occlusion(model, (4, 4), (4, 4)).attribute(IMAGES, 2)
    torch.testing.assert_close(patches.repeat_interleave(4, 1).repeat_interleave(4, 2), pixels)


def test_grids_that_nothing_determines():
    assert default_grid(family("vit"), (8, 12)) == GRID
    assert default_grid(family("vit"), (7, 30)) == (7, 10)
    assert default_grid(family("resnet"), (224, 32)) == (14, 8)
    with pytest.raises(
        UserError, match="no grid of 2 to 14 rows and columns divides 17×32 pixels: name one with players=…"
    ):
        default_grid(family("resnet"), (17, 32))
    dynamic = VisionTransformer(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1, dynamic_img_size=True)
    assert default_grid(dynamic, (16, 8)) == (4, 2)


def test_sides_that_nothing_divides_are_occluded_all_the_same():
    model, pixels = family("resnet"), torch.rand(1, 3, 17, 12, generator=torch.Generator().manual_seed(0))
    found = Occlusion(model).attribute(pixels, 0)
    assert found.shape == (1, 17, 12)
    torch.testing.assert_close(found, Occlusion(model, (2, 2), (1, 1)).attribute(pixels, 0))
    assert Random(model).attribute(pixels).shape == (1, 14, 12)


def test_some_classes_are_some_of_all():
    model, classes = family("resnet").double(), torch.tensor([[3, 0], [1, 2]])
    for method in (RISE(model, 6), Occlusion(model), LeaveOneOut(model, GRID), KernelSHAPValues(model, GRID, 20)):
        every = method.attribute_all(IMAGES[:2])
        expected = torch.stack([maps[wanted] for maps, wanted in zip(every, classes, strict=True)])
        torch.testing.assert_close(method.attribute_classes(IMAGES[:2], classes), expected)


def interpolation(cells: int, length: int) -> list[list[float]]:
    """Return what each of ``length`` places takes of each cell."""
    rows = []
    for place in range(length):
        position = min(max((place + 0.5) * cells / length - 0.5, 0), cells - 1)
        low = min(int(position), cells - 1)
        row = [0.0] * cells
        row[low] += 1 - (position - low)
        row[min(low + 1, cells - 1)] += position - low
        rows.append(row)
    return rows


def test_random_masks_are_coarse_cells_interpolated_and_shifted():
    drawn = RandomMasks(5, (4, 6), cells=3, keep=0.4, seed=3)
    masks = drawn(torch.zeros((), dtype=torch.float64), 1, 4)
    assert drawn.cell == (2, 2)
    down, across = interpolation(3, 8), interpolation(3, 8)
    for mask, kept, top, left in zip(
        masks, drawn.present[1:4], drawn.shifts[0][1:4], drawn.shifts[1][1:4], strict=True
    ):
        for y, x in itertools.product(range(4), range(6)):
            terms = [down[y + top][i] * across[x + left][j] * kept[i, j] for i in range(3) for j in range(3)]
            assert mask[y, x].item() == pytest.approx(float(sum(terms)))


@pytest.mark.parametrize("coverage", [False, True])
def test_rise_is_its_formula_and_of_a_linear_model_near_its_expectation(coverage):
    size, cells, keep, number = (4, 6), 2, 0.3, 6000
    model, image = Linear(size), torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(2)).double()
    method = RISE(model, number, cells, keep, coverage, seed=4, link="logits", max_batch=700)
    found = method.attribute_all(image)[0]
    masks = RandomMasks(number, size, cells, keep, 4)(image, 0, number)
    with torch.no_grad():
        answers = model(image * masks.unsqueeze(1))
    each = answers[:, :, None, None] * masks[:, None]  # (M, K, H, W)
    expected = each.sum(dim=0) / (masks.sum(dim=0) if coverage else number * keep)
    torch.testing.assert_close(found, expected)
    # E[m_u m_v] = p² + p (1 - p) · mean over shifts of the sum over cells of what u and v take of a cell.
    cell = [math.ceil(side / cells) for side in size]
    down, across = (torch.tensor(interpolation(cells, (cells + 1) * c)).double() for c in cell)
    second = torch.zeros(*size, *size, dtype=torch.float64)
    for top, left in itertools.product(range(cell[0]), range(cell[1])):
        rows, columns = down[top : top + size[0]], across[left : left + size[1]]
        second += torch.einsum("yw,xv->yxwv", rows @ rows.T, columns @ columns.T) / (cell[0] * cell[1])
    second = keep**2 + keep * (1 - keep) * second
    with torch.no_grad():
        exact = torch.einsum("khw,yxhw->kyx", model.weight[:, 0] * image[0, 0], second) / keep + 0.3
    error = each.std(dim=0) / keep / math.sqrt(number)
    if not coverage:
        assert ((found - exact).abs() < 5 * error).all()
    assert ((found - exact).abs() < 10 * error).float().mean() > 0.9


def agglomerate(masks: Tensor, threshold: float, linkage: str) -> list[list[int]]:
    groups = [[i] for i in range(len(masks))]
    reduce = {"complete": max, "single": min, "average": lambda d: sum(d) / len(d)}[linkage]

    def distance(a: list[int], b: list[int]) -> float:
        pairs = [(masks[i].flatten(), masks[j].flatten()) for i in a for j in b]
        return reduce([1 - float(u @ v / (u.norm() * v.norm())) for u, v in pairs])

    while len(groups) > 1:
        gap, i, j = min((distance(groups[i], groups[j]), i, j) for j in range(len(groups)) for i in range(j))
        if gap >= threshold:
            break
        groups[i] = sorted(groups[i] + groups.pop(j))
    return sorted(groups)


@pytest.mark.parametrize("linkage", ["complete", "average", "single"])
def test_clusters_are_merged_while_close_and_numbered_by_their_first_members(linkage):
    masks = torch.rand(9, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    sizes = set()
    for threshold in (0.0, 0.1, 0.2, 0.3, 2.0):
        found = cluster(masks, threshold, linkage)
        assert found == agglomerate(masks, threshold, linkage)
        sizes.add(len(found))
    assert len(sizes) > 3
    assert cluster(masks[:1], 0.1) == [[0]]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"features": "norm1", "merge": "sum_minmax"},
        {"masks": "features", "coverage": False},
        {"score": "plain", "linkage": "average"},
        {"masks": "random", "num_masks": 5},
    ],
    ids=str,
)
@torch.no_grad()
def test_vit_cx(options):
    model = family("vit").double()
    image, target = IMAGES[:1], 3
    block = forward_blocks(model, image[0])
    planes = block[options.get("features", "attn_out")][1:].T.view(12, 1, *GRID)
    large = nn.functional.interpolate(planes, (8, 12), mode="bilinear")[:, 0]
    masks = [(plane - plane.min()) / (plane.max() - plane.min()) for plane in large]
    if options.get("masks") == "random":
        masks = list(RandomMasks(5, (8, 12), 7, 0.5, 6)(image, 0, 5))
    elif options.get("masks") != "features":
        groups = agglomerate(torch.stack(masks), 0.2, options.get("linkage", "complete"))
        assert 1 < len(groups) < 12
        masks = [sum(masks[i] for i in members) / len(members) for members in groups]
        if options.get("merge") == "sum_minmax":
            masks = [(mask - mask.min()) / (mask.max() - mask.min()) for mask in masks]
    generator = torch.Generator().manual_seed(6)

    def answer(normalized: Tensor) -> Tensor:
        return model.network(normalized.unsqueeze(0)).softmax(dim=1)[0, target]

    x, total, coverage = model.normalize(image[0]), 0, 0
    for mask in masks:
        noise = (1 - mask) * 0.3 * torch.randn(3, 8, 12, generator=generator).double()
        score = answer(x * mask + noise) + answer(x) - answer(x + noise)
        if options.get("score") == "plain":
            score = answer(x * mask)
        total, coverage = total + score * mask, coverage + mask / len(masks)
    expected = torch.where(coverage > 0, total / coverage, 0) if options.get("coverage", True) else total
    found = ViTCX(model, threshold=0.2, noise=0.3, seed=6, max_batch=2, **options).attribute(image, target)
    torch.testing.assert_close(found[0], expected)


def forward_blocks(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    last = forward_by_hand(model.network, model.normalize(image)).blocks[-1]
    return {"attn_out": last.attended, "norm1": last.normed1}


def test_vit_cx_of_windows_reads_the_stage_before_the_last_in_image_order():
    model = family("swin").double()
    method = ViTCX(model, masks="features", features="attn_out")
    assert method.threshold == 0.05
    kept = []
    block = model.network.layers[0].blocks[-1]
    handle = block.register_forward_hook(lambda module, args, output: kept.append((args[0], output)))
    with torch.no_grad():
        model(IMAGES[:1])
        handle.remove()
        before, after = kept[0]
        middle = before + block._attn(block.norm1(before))
        torch.testing.assert_close(middle + block.mlp(block.norm2(middle)), after)
        expected = nn.functional.interpolate((middle - before).permute(3, 0, 1, 2), (8, 12), mode="bilinear")[:, 0]
        found = method.image_masks(IMAGES[0])
    low, high = expected.amin(dim=(1, 2), keepdim=True), expected.amax(dim=(1, 2), keepdim=True)
    torch.testing.assert_close(found, (expected - low) / (high - low))


def test_without_features_there_is_nothing_to_see():
    model = family("vit")
    for parameter in model.network.blocks[-1].attn.proj.parameters():
        nn.init.zeros_(parameter)
    assert (ViTCX(model).attribute(IMAGES.float(), 1) == 0).all()


@pytest.mark.parametrize("name", ["kernel_shap", "kriging", "leverage_shap", "permutation"])
def test_shapley_values_of_patches(name):
    model = family("resnet").double()
    players = PlayerGrid(small.IMAGE_SIZE, GRID)
    game = ModelGame(model, Constant(model, players), "log_odds", max_batch=7)
    assert isinstance(game, Game)
    exact = players.to_grid(exact_shapley_values(game, IMAGES))
    found = METHODS[name](model, players=GRID, budget=62, link="log_odds").attribute_all(IMAGES)
    total = (game.grand(IMAGES) - game.null(IMAGES)).detach()
    torch.testing.assert_close(found.sum(dim=(2, 3)), total)
    if name != "permutation":  # 62 coalitions are all there are
        torch.testing.assert_close(found, exact)
    with pytest.raises(UserError, match=r"budget=1: too small for 6 players: must be at least \d+"):
        METHODS[name](model, players=GRID, budget=1).attribute(IMAGES, 1)


OF_PLAYERS: dict[str, dict[str, int]] = {
    "leave_one_out": {},
    "kernel_shap": {"budget": 30},
    "kriging": {"budget": 20},
    "leverage_shap": {"budget": 30},
    "permutation": {"budget": 40},
    "rise": {"num_masks": 20},
}


@pytest.mark.parametrize(("name", "options"), OF_PLAYERS.items(), ids=OF_PLAYERS)
def test_a_label_map_of_the_grids_patches_has_the_grids_maps_at_image_size(name, options):
    model = family("resnet").double()
    labels = torch.arange(6).view(GRID).repeat_interleave(4, 0).repeat_interleave(4, 1)
    patches, pixels = (METHODS[name](model, players=players, **options) for players in (GRID, labels.numpy()))
    expected, found = patches.attribute_all(IMAGES), pixels.attribute_all(IMAGES)
    if name != "rise":  # whose maps have the image's size in any case
        assert (patches.unit, pixels.unit) == ("softmax", None)  # an image's pixels do not add up to the answer
        expected = expected.repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)


@torch.no_grad()
@pytest.mark.parametrize("players", [small.label_map(5), Segments.grid(small.IMAGE_SIZE, (3, 2))], ids=["map", "grid"])
def test_segments_of_any_shape_are_covered_and_have_shapley_values(players):
    model = family("resnet").double()
    segments = players if isinstance(players, Segments) else Segments(players)
    labels, number = segments.labels, segments.num_players
    covered = [torch.where(labels == player, model.mean, IMAGES) for player in range(number)]
    lost = torch.stack([model(IMAGES).softmax(1) - model(one).softmax(1) for one in covered], dim=2)  # (B, K, P)
    found = LeaveOneOut(model, players).attribute_all(IMAGES)
    torch.testing.assert_close(found, lost[:, :, labels])

    game = ModelGame(model, Constant(model, segments), "log_odds")
    for image in range(2):
        single = shapiq.ExactComputer(
            lambda asked, image=image: game.values(IMAGES[image : image + 1], torch.from_numpy(asked)[None])[0, :, 1],
            n_players=number,
        )("SV", order=1)
        phi = torch.tensor([single[(player,)] for player in range(number)], dtype=torch.float64)
        method = KernelSHAPValues(model, players, budget=2**number - 2, link="log_odds")
        torch.testing.assert_close(method.attribute(IMAGES[image : image + 1], 1)[0], phi[labels])


def test_rise_of_players_is_the_mean_of_answers_to_those_that_are_kept():
    model, image = Linear((8, 12)), torch.rand(1, 1, 8, 12, generator=torch.Generator().manual_seed(2)).double()
    labels = small.label_map(5)
    found = RISE(model, 900, keep=0.3, link="logits", max_batch=70, players=labels).attribute_all(image)[0]
    kept = torch.rand(900, 5, generator=torch.Generator().manual_seed(0)) < 0.3
    masks = kept[:, labels].double()
    assert masks.mean().item() == pytest.approx(0.3, abs=0.05)
    with torch.no_grad():
        answers = model(image * masks.unsqueeze(1))
    torch.testing.assert_close(found, torch.einsum("mk,mhw->khw", answers, masks) / (900 * 0.3))


def test_random_maps_follow_from_seed_and_image():
    model, image = family("resnet"), images(40)
    maps = Random(model, GRID).attribute(image)
    assert torch.equal(Random(model, GRID).attribute(image.flip(0)).flip(0), maps)
    assert not torch.isclose(maps[0], maps[1]).any()
    assert not torch.isclose(maps, Random(model, GRID, seed=1).attribute(image)).any()
    assert abs(maps.mean()) < 0.3
    assert maps.std().item() == pytest.approx(1, abs=0.2)


ASKED_OFTEN = ["occlusion", "leave_one_out", "rise", "score_cam", "kernel_shap", "permutation"]
PAIRS = [(name, kind) for name in ASKED_OFTEN for kind in ("resnet", "distilled")] + [("vit_cx", "distilled")]


@pytest.mark.parametrize(("name", "kind"), PAIRS)
def test_passes_in_bfloat16_have_logits_in_full_and_maps_near_those_in_float32(name, kind):
    model, options, inside, last = family(kind), OPTIONS.get(name, {}), set(), set()
    network = getattr(model, "network", model)
    heads = [network.fc] if kind == "resnet" else [network.head, network.head_dist]
    inner = network.conv1 if kind == "resnet" else network.blocks[0].mlp.fc1
    inner.register_forward_hook(lambda module, args, output: inside.add(output.dtype))
    for head in heads:
        head.register_forward_hook(lambda module, args, output: last.add(output.dtype))
    exact = METHODS[name](model, **options).attribute(images(), 1)
    assert inside == {torch.float32}
    found = METHODS[name](model, **options, bf16=True).attribute(images(), 1)
    assert torch.bfloat16 in inside
    assert last == {found.dtype} == {torch.float32}
    assert torch.corrcoef(torch.stack([found.flatten(), exact.flatten()]))[0, 1] > 0.99
    assert not torch.is_autocast_enabled("cpu")


INVARIANT = ["saliency", "integrated_gradients", "smoothgrad", "occlusion", "leave_one_out", "rise", "vit_cx"]
INVARIANT += ["grad_cam", "score_cam", "kernel_shap"]


@pytest.mark.parametrize("name", INVARIANT)
def test_a_classifier_is_explained_as_its_network_on_normalized_pixels(name):
    model = family("vit").double()
    options = OPTIONS.get(name, {})
    outside = METHODS[name](model, **options).attribute(IMAGES, 1)
    inside = METHODS[name](model.network, **options).attribute(model.normalize(IMAGES), 1)
    torch.testing.assert_close(outside, inside)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rise", {"num_masks": 0}, "num_masks=0"),
        ("rise", {"link": "odds"}, "RISE: link=odds: unknown; must be one of softmax"),
        ("vit_cx", {"noise": -1.0}, "noise=-1.0"),
        ("occlusion", {"window": (2, 2), "stride": (3, 1)}, r"window=\(2, 2\), stride=\(3, 1\)"),
        ("kernel_shap", {"players": (3, 3)}, "3×3 players do not divide"),
        ("kernel_shap", {"players": torch.tensor([[0, 2]])}, "a label map from 0 to 2 without 1"),
        ("rise", {"players": torch.tensor([[0.0, 1.0]])}, "a label map of type float32"),
        (
            "leave_one_out",
            {"players": torch.tensor([[0, 1]])},
            "players: are for images of 1×2 pixels",
        ),
        ("occlusion", {"baseline": [0.0]}, "must have 3 numbers"),
    ],
)
def test_impossible_options_are_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        METHODS[name](family("vit"), **options).attribute(IMAGES.float(), 1)
    with pytest.raises(UserError, match=f"classes are numbered 0 to {NUM_CLASSES - 1}"):
        METHODS[name](family("vit")).attribute(IMAGES.float(), NUM_CLASSES)
