import itertools
import math
from typing import Any

import pytest
import timm
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models import ModelGame, Surrogate, build_surrogate
from fastshap_lab.models.classifier import Classifier
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.models.maskings import MASKINGS, build_masking, removals
from fastshap_lab.models.tokens import is_token_network
from fastshap_lab.shapley.players import PlayerGrid, Segments
from tests import small


def without_tokens(surrogate: Surrogate, image: Tensor, coalition: Tensor) -> Tensor:
    """Return the logits of one image of whose tokens the absent players' never enter the sequence."""
    network, grid = surrogate.classifier.network, surrogate.grid
    patch, columns = network.patch_embed.patch_size, network.patch_embed.grid_size[1]
    embedded = network.patch_embed(surrogate.classifier.normalize(image.unsqueeze(0)))[0]
    sequence = [network.cls_token[0, 0] + network.pos_embed[0, 0]]
    for token, embedding in enumerate(embedded):
        y, x = token // columns * patch[0], token % columns * patch[1]  # its first pixel
        player = y // grid.patch_size[0] * grid.shape[1] + x // grid.patch_size[1]
        if coalition[player]:
            sequence.append(embedding + network.pos_embed[0, 1 + token])
    tokens = torch.stack(sequence).unsqueeze(0)
    for block in network.blocks:
        tokens = block(tokens)
    return network.head(network.norm(tokens)[0, 0])


@torch.inference_mode()
@pytest.mark.parametrize("grid", [(4, 6), (2, 3), (4, 2), (1, 6)], ids=str)
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("masking", ["attention", "token_drop"])
def test_absent_tokens_might_as_well_never_have_entered_the_sequence(masking, grid, fused):
    surrogate = small.surrogate(masking, grid)
    for block in surrogate.classifier.network.blocks:
        block.attn.fused_attn = fused
    num_players = surrogate.grid.num_players
    image, coalitions = small.images(2), small.coalitions(2, 4, num_players)
    coalitions[:, 0], coalitions[:, 1] = True, False
    logits = surrogate(image, coalitions)
    for i in range(2):
        for m in range(4):
            expected = without_tokens(surrogate, image[i], coalitions[i, m])
            torch.testing.assert_close(logits[i, m], expected, rtol=1e-5, atol=1e-5)
    assert (logits[0, 0] - logits[0, 1]).abs().max() > 0.05


@torch.inference_mode()
def test_masked_attention_of_the_grand_coalition_is_the_classifier():
    surrogate, image = small.surrogate("attention"), small.images(2)
    everyone = torch.ones(2, 1, 6, dtype=torch.bool)
    torch.testing.assert_close(surrogate(image, everyone)[:, 0], surrogate.classifier(image), rtol=1e-5, atol=1e-5)


FAMILIES = {
    "vit_tiny_patch16_224": {},  # class token
    "deit_tiny_distilled_patch16_224": {},  # two prefix tokens
    "vit_small_patch14_reg4_dinov2": {},  # class token and registers
    "vit_wee_patch16_reg1_gap_256": {},  # a register, mean pooling
    "vit_medium_patch16_gap_240": {},  # no prefix token, mean pooling
    "eva02_tiny_patch14_224": {},  # rotary positions
    "vit_small_patch16_rope_mixed_224": {},  # rotary positions of each block's own
    "vit_small_patch16_dinov3": {
        "dynamic_img_size": True
    },  # rotary positions only; patches embedded as rows and columns
}


def family(model: str, masking: str, grid: tuple[int, int] = (2, 3)) -> Surrogate:
    """Return a surrogate around a timm network of 4 × 6 patches, cut down to two blocks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = timm.create_model(
            model, img_size=(32, 48), patch_size=8, embed_dim=48, num_heads=3, depth=2, num_classes=3, **FAMILIES[model]
        )
        assert is_token_network(network)
        classifier = Classifier(network, [0.5] * 3, [0.25] * 3, (32, 48), 3)
        players = PlayerGrid((32, 48), grid)
        surrogate = Surrogate(classifier, MASKINGS[masking](classifier, players), players)
        with torch.no_grad():
            for parameter in surrogate.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return surrogate.eval()


IMAGE = small.images(3, (32, 48))


def some_of(num_players: int) -> Tensor:
    """Return coalitions of every kind: random ones, all and none."""
    coalitions = small.coalitions(3, 6, num_players)
    coalitions[:, 4], coalitions[:, 5] = True, False
    return coalitions


@pytest.mark.parametrize("grid", [(2, 3), (4, 6)], ids=str)
@pytest.mark.parametrize("model", FAMILIES)
def test_dropping_tokens_gives_the_logits_and_gradients_of_hiding_them(model, grid):
    hidden, dropped = family(model, "attention", grid), family(model, "token_drop", grid)
    with torch.no_grad():
        for parameter in dropped.parameters():
            parameter.zero_()
    dropped.load_state_dict(hidden.state_dict())  # weights of one fit the other
    coalitions = some_of(hidden.grid.num_players)
    expected, logits = hidden(IMAGE, coalitions), dropped(IMAGE, coalitions)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    assert (logits[0, 0] - logits[0, 1]).abs().max() > 1e-3
    assert (logits[0, 0] - logits[1, 0]).abs().max() > 1e-4
    for answer in (expected, logits):
        answer.square().sum().backward()
    for (name, of_hidden), of_dropped in zip(hidden.named_parameters(), dropped.parameters(), strict=True):
        scale = of_hidden.grad.abs().max().item()
        torch.testing.assert_close(of_dropped.grad, of_hidden.grad, rtol=1e-4, atol=1e-4 * scale + 1e-6, msg=name)


@pytest.mark.parametrize("max_batch", [1, 3, 7])
def test_a_frozen_game_drops_tokens_in_passes_of_any_size(max_batch):
    dropped, coalitions = family("vit_tiny_patch16_224", "token_drop", (4, 6)), some_of(24)
    with torch.no_grad():
        expected = dropped(IMAGE, coalitions)
    values = frozen_copy(dropped).game("logits", max_batch).values(IMAGE, coalitions)
    torch.testing.assert_close(values, expected, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_dropped_tokens_cost_nothing():
    """Every image is embedded once; of its tokens no more enter the blocks than padding to a bucket explains."""
    surrogate, entered, embedded = small.surrogate("token_drop", (4, 6)), [], []
    network = surrogate.classifier.network
    network.patch_embed.register_forward_hook(lambda module, given, patches: embedded.append(len(patches)))
    network.blocks[0].register_forward_hook(lambda module, given, tokens: entered.append(tokens.shape[:2].numel()))
    sizes = torch.tensor([[1, 4, 7, 20], [0, 8, 9, 24]])
    coalitions = torch.arange(24) < sizes.unsqueeze(-1)
    surrogate(small.images(2), coalitions)
    assert embedded == [2]
    # Each with its class token: none alone; 1 … 8 padded to the longest, 8; 9 alone; 20 and 24 padded to 24.
    assert entered == [1, 4 * (8 + 1), 9 + 1, 2 * (24 + 1)]


@torch.inference_mode()
def test_a_mask_token_stands_where_the_embedding_of_absent_patches_stood():
    surrogate = small.surrogate("mask_token")  # a player owns 2 × 2 of the patches
    network, image = surrogate.classifier.network, small.images(1)
    logits = surrogate(image, torch.tensor([[[True, False, True, True, True, False]]]))
    patches = network.patch_embed(surrogate.classifier.normalize(image)).unflatten(1, (4, 6))
    patches[:, :2, 2:4] = patches[:, 2:, 4:] = surrogate.masking.token
    tokens = torch.cat([network.cls_token, patches.flatten(1, 2)], dim=1) + network.pos_embed
    torch.testing.assert_close(
        logits[0], network.head(network.norm(network.blocks(tokens))[:, 0]), rtol=1e-5, atol=1e-5
    )


@torch.inference_mode()
@pytest.mark.parametrize("model", FAMILIES)
def test_a_mask_token_is_for_every_family(model):
    surrogate = family(model, "mask_token")
    logits = surrogate(IMAGE, some_of(6))
    torch.testing.assert_close(logits[:, 4], surrogate.classifier(IMAGE), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits[:, 5], logits[:1, 5].expand(3, -1), rtol=1e-5, atol=1e-5)
    assert (logits[0, 4] - logits[0, 5]).abs().max() > 1e-3


class Recorder(nn.Module):
    def forward(self, pixels: Tensor) -> Tensor:
        self.pixels = pixels
        return pixels.mean(dim=(2, 3))


@pytest.mark.parametrize("name", ["resnet", "vit"])
@torch.inference_mode()
def test_mask_channel_shows_the_grand_coalition_normalized_with_ones(name):
    surrogate, image = small.surrogate("mask_channel", name=name), small.images(2)
    seen = torch.cat([surrogate.classifier.normalize(image), torch.ones(2, 1, *small.IMAGE_SIZE)], dim=1)
    logits = surrogate(image, torch.ones(2, 1, 6, dtype=torch.bool))[:, 0]
    torch.testing.assert_close(logits, surrogate.classifier.network(seen))


def seen(masking: str, image: Tensor, coalition: list[int]) -> tuple[Tensor, Tensor]:
    """Return what the network sees of an image of 8 × 12 pixels and 2 × 3 players, and the normalized image."""
    surrogate = small.surrogate(masking)
    surrogate.classifier.network = recorder = Recorder()
    surrogate(image, torch.tensor([[coalition]]).bool())
    return recorder.pixels, surrogate.classifier.normalize(image)


CORNERS = [1, 0, 0, 0, 0, 1]
PRESENT = torch.zeros(1, 1, 8, 12)
PRESENT[..., :4, :4] = PRESENT[..., 4:, 8:] = 1  # first and last of the players


@torch.inference_mode()
def test_mask_channel_shows_absent_players_as_the_mean_colour():
    pixels, normalized = seen("mask_channel", small.images(1), CORNERS)
    assert torch.equal(pixels, torch.cat([normalized * PRESENT, PRESENT], dim=1))


@torch.inference_mode()
def test_zero_shows_absent_players_as_the_mean_colour_of_the_data():
    pixels, normalized = seen("zero", small.images(1), CORNERS)
    assert torch.equal(pixels, normalized * PRESENT)


@torch.inference_mode()
def test_mean_shows_absent_players_as_the_mean_colour_of_their_image():
    image = small.images(1)
    pixels, normalized = seen("mean", image, CORNERS)
    surrogate = small.surrogate("mean")
    colour = surrogate.classifier.normalize(image.double().mean(dim=(2, 3), keepdim=True).float().expand_as(image))
    torch.testing.assert_close(pixels, torch.where(PRESENT.bool(), normalized, colour), rtol=1e-5, atol=1e-6)
    assert torch.equal(pixels[..., :4, :4], normalized[..., :4, :4])


@torch.inference_mode()
def test_blur_shows_absent_players_blurred_by_their_own_size():
    pixels, normalized = seen("blur", small.images(1), CORNERS)

    def filtered(values: Tensor) -> Tensor:
        for axis, sigma in ((2, 4), (3, 4)):
            values = torch.from_numpy(gaussian_filter1d(values.numpy(), sigma, axis=axis, mode="constant", truncate=8))
        return values

    # Zeros beyond the border, and then divided by the share of the weights that met a pixel.
    blurred = filtered(normalized.double()) / filtered(torch.ones_like(normalized.double()))
    torch.testing.assert_close(pixels, torch.where(PRESENT.bool(), normalized, blurred.float()), rtol=1e-4, atol=1e-5)
    assert torch.equal(pixels[..., :4, :4], normalized[..., :4, :4])


WIDE = small.images(2, (13, 9)).double()
COLOUR = [0.5, 0.4, 0.3]


def shown_as(masking: dict[str, Any]) -> Tensor:
    """Return what an absent player shows to a model that answers with the image itself."""
    made = build_masking(masking, nn.Identity(), PlayerGrid((13, 9), (1, 3)))
    absent = torch.zeros(2, 1, 3, dtype=torch.bool)
    seen: list[Tensor] = []
    ModelGame(lambda rows: seen.append(rows) or rows.flatten(1), made, "logits").values(WIDE, absent)
    return seen[0]


def reflected(index: int) -> int:
    """Return where an index lands in 0 … 10 if the array is mirrored at its borders, the border cells repeated."""
    index %= 22
    return index if index < 11 else 21 - index


def rise_kernel() -> list[list[float]]:
    """Filter a unit impulse in an 11×11 array: each axis with a Gaussian cut off at four σ, borders reflecting."""
    taps = [math.exp(-(offset**2) / 50) for offset in range(-20, 21)]
    line = [
        sum(tap / sum(taps) for offset, tap in enumerate(taps, start=-20) if reflected(place + offset) == 5)
        for place in range(11)
    ]
    return [[row * column for column in line] for row in line]


@pytest.mark.parametrize("c", range(3))
@pytest.mark.parametrize(("row", "column"), [(0, 0), (12, 4), (6, 4), (3, 8)])
def test_blurs_follow_their_definitions(c, row, column):
    total, kernel = 0.0, rise_kernel()
    for i, j in itertools.product(range(-5, 6), range(-5, 6)):
        inside = 0 <= row + i < 13 and 0 <= column + j < 9
        total += kernel[i + 5][j + 5] * float(WIDE[1, c, row + i, column + j] if inside else COLOUR[c])
    rise = shown_as({"name": "rise_blur", "params": {"colour": COLOUR}})
    assert rise[1, c, row, column].item() == pytest.approx(total)
    weights = {
        (y, x): math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * 1.5**2))
        for y, x in itertools.product(range(13), range(9))
    }
    mean = sum(weight * float(WIDE[1, c, y, x]) for (y, x), weight in weights.items()) / sum(weights.values())
    gaussian = shown_as({"name": "blur", "params": {"width": 1.5}})
    assert gaussian[1, c, row, column].item() == pytest.approx(mean, rel=1e-5)


def test_the_kernel_of_rise_is_flatter_than_a_gaussian():
    line = torch.tensor([math.exp(-((place - 5) ** 2) / 50) for place in range(11)])
    rise, gaussian = torch.tensor(rise_kernel()), torch.outer(line, line) / line.sum().square()
    assert rise.sum().item() == pytest.approx(1)
    assert ((rise - gaussian).abs().max() / rise.max()).item() == pytest.approx(0.378, abs=0.001)
    assert rise.max() / rise.min() < 1.2 < 2.7 < gaussian.max() / gaussian.min()


@pytest.mark.parametrize("name", removals())
def test_an_image_of_the_mean_colour_alone_stays_as_it_is(name):
    classifier = small.classifier("resnet")
    classifier.network = recorder = Recorder()
    image = classifier.mean.expand(1, 3, 8, 12)
    masking = MASKINGS[name](classifier, PlayerGrid((8, 12), (2, 3)))
    masking(classifier, image, torch.tensor([[CORNERS]]).bool())
    torch.testing.assert_close(recorder.pixels, torch.zeros(1, 3, 8, 12), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("masking", "message"),
    [
        ({"name": "blur", "params": {"width": 0}}, "masking.params.width=0: must be greater than 0"),
        ({"name": "blur", "params": {"sigma": 2}}, "masking.params.sigma: unknown to blur, known: width"),
        ({"name": "blurr", "params": {"width": 2}}, r"masking=blurr: unknown, did you mean blur\?"),
        ({"name": "mean", "params": {"colour": COLOUR}}, "masking.params.colour: unknown to mean"),
        ({"name": "constant", "params": {"colour": [0, 1]}}, "masking.params.colour=.*at least 3 items"),
        ({"name": "constant", "colour": COLOUR}, "must be a name, or {name: …, params: {…}}"),
        ({"params": {}}, "must be a name, or {name: …, params: {…}}"),
    ],
)
def test_wrong_arguments_are_named(masking, message):
    with pytest.raises(UserError, match=message):
        build_surrogate(small.network("resnet"), masking, (2, 3))


@pytest.mark.parametrize("masking", small.OF_TOKENS)
@pytest.mark.parametrize(
    ("name", "grid", "message"),
    [
        ("resnet", (2, 3), "ResNet is not of timm.*mask_channel"),
        ("vit", (8, 12), "4×6 patches do not make 8×12 players"),
        ("vit", (4, 4), "4×6 patches do not make 4×4 players"),
        ("vit", (8, 6), "4×6 patches do not make 8×6 players"),
    ],
)
def test_maskings_of_tokens_refuse_what_does_not_fit(masking, name, grid, message):
    with pytest.raises(UserError, match=f"surrogate.masking={masking}: .*{message}"):
        build_surrogate(small.network(name), masking, grid)


@pytest.mark.parametrize("masking", small.OF_TOKENS)
def test_maskings_of_tokens_refuse_tokens_that_see_beyond_their_patch(masking):
    network = small.network("timm", (32, 32)) | {"params": {"model": "vit_tiny_r_s16_p8_224"}}
    with pytest.raises(UserError, match=f"surrogate.masking={masking}: .* HybridEmbed see more"):
        build_surrogate(network, masking, (1, 2))


def test_unknown_maskings_are_named():
    with pytest.raises(UserError, match=r"surrogate.masking=atention: unknown, did you mean attention\?"):
        build_surrogate(small.network("vit"), "atention", (2, 3))


OF_PIXELS = [name for name in MASKINGS if name not in small.OF_TOKENS]


@torch.inference_mode()
@pytest.mark.parametrize("name", OF_PIXELS)
def test_a_label_map_of_the_grids_patches_is_the_grid_at_the_pixels(name):
    """The blur's default width, which is a player's size, included."""
    surrogate, image, some = small.surrogate(name), small.images(3), small.coalitions(3, 5, 6)
    patches = Segments(torch.arange(6).view(2, 3).repeat_interleave(4, 0).repeat_interleave(4, 1))
    masking = build_masking(name, surrogate.classifier, patches)
    for max_rows in (None, 4):
        found = masking(surrogate.classifier, image, some, max_rows)
        torch.testing.assert_close(found, surrogate(image, some), rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("name", OF_PIXELS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
def test_segments_hide_their_pixels_and_no_others(name, layout):
    classifier, labels = small.surrogate(name).classifier, small.label_map(5)
    masking = build_masking(name, classifier, Segments(labels))
    image, some = small.images(2).contiguous(memory_format=layout), small.coalitions(2, 4, 5)
    present, absent = masking.layers(classifier.normalize(image))
    absent = torch.zeros_like(present) if absent is None else absent
    for b, m in itertools.product(range(2), range(4)):
        shown = absent[b].clone()
        for player in some[b, m].nonzero().flatten():
            shown[:, labels == player] = present[b][:, labels == player]
        expected = classifier.network(shown.unsqueeze(0))
        torch.testing.assert_close(masking(classifier, image, some)[b, m : m + 1], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", small.OF_TOKENS)
def test_tokens_belong_to_the_patches_of_a_grid(name):
    with pytest.raises(
        UserError, match=f"surrogate.masking={name}: tokens belong to the patches of a player g"
    ) as error:
        build_masking(name, small.classifier("vit"), Segments(small.label_map(5)))
    assert "\n" not in str(error.value)
