import pytest
import torch
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models import build_classifier, build_explainer
from fastshap_lab.models.explainers.unet import UNetExplainer
from fastshap_lab.models.explainers.vit import ViTExplainer
from fastshap_lab.shapley import PlayerGrid
from tests import small

BACKBONE = {"name": "vit", "params": small.PARAMS["vit"]}  # 4 × 6 tokens on 8 × 12 pixels


def vit(grid: tuple[int, int]) -> ViTExplainer:
    description = small.network("vit") | {"params": {"backbone": BACKBONE, "mlp_ratio": 2.0}, "grid": grid}
    return small.scrambled(lambda: build_explainer(**description))


class NumberedTokens(nn.Module):
    """Tokens with a single feature, their number; the class token's must not be seen."""

    num_prefix_tokens = 1

    def forward_features(self, pixels: Tensor) -> Tensor:
        return torch.tensor([-1e6, *range(24)]).view(1, 25, 1).expand(len(pixels), -1, -1)


class Outputs(nn.Module):
    """Hundreds are the token's number, units that of the output."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, token: Tensor) -> Tensor:
        return 100 * token + torch.arange(self.number)


def numbered(grid: tuple[int, int]) -> Tensor:
    """Return what each player, (rows, columns, K), is told by the tokens with everything between taken out."""
    explainer = vit(grid)
    outputs = explainer.head.out_features
    explainer.backbone, explainer.block, explainer.mlp, explainer.head = (
        NumberedTokens(),
        nn.Identity(),
        nn.Identity(),
        Outputs(outputs),
    )
    raw = explainer(small.images(2))
    assert torch.equal(raw[0], raw[1])
    return raw[0].unflatten(0, grid)


def test_a_player_per_token_gets_the_tokens_values():
    raw = numbered((4, 6))
    for row in range(4):
        for column in range(6):
            assert raw[row, column].tolist() == [100 * (6 * row + column) + k for k in range(3)]


def test_players_finer_than_tokens_are_listed_row_by_row_on_the_image():
    raw = numbered((8, 12))  # 2 × 2 players per token, so four outputs per class
    for row in range(8):
        for column in range(12):
            token, within = 6 * (row // 2) + column // 2, 2 * (row % 2) + column % 2
            assert raw[row, column].tolist() == [100 * token + 4 * k + within for k in range(3)]


def test_a_player_of_several_tokens_takes_their_mean():
    raw = numbered((2, 2))  # 2 × 3 tokens each
    for row in range(2):
        for column in range(2):
            tokens = [6 * (2 * row + i) + 3 * column + j for i in range(2) for j in range(3)]
            expected = [100 * sum(tokens) / 6 + k for k in range(3)]
            torch.testing.assert_close(raw[row, column], torch.tensor(expected))


def test_finer_in_one_direction_and_coarser_in_the_other():
    raw = numbered((8, 3))  # 2 × 1/2 players per token
    for row in range(8):
        for column in range(3):
            tokens = [6 * (row // 2) + 2 * column + j for j in range(2)]
            expected = [100 * sum(tokens) / 2 + 2 * k + row % 2 for k in range(3)]
            torch.testing.assert_close(raw[row, column], torch.tensor(expected))


@torch.inference_mode()
def test_without_attention_a_vits_token_explains_its_own_patch():
    explainer, image = vit((4, 6)), small.images(1)
    for block in [*explainer.backbone.blocks, explainer.block]:
        block.attn.proj.weight.zero_()
    for player in range(24):
        there = explainer.grid.to_pixels(torch.arange(24).view(1, 1, 24) == player)[:, 0]
        changed = (explainer(image) != explainer(torch.where(there, 1 - image, image))).any(dim=2)
        assert changed.nonzero()[:, 1].tolist() == [player]


@torch.inference_mode()
def test_a_vit_starts_from_all_of_the_surrogates_network_but_its_head():
    explainer, network = vit((4, 6)), small.classifier("vit", seed=1).network
    features = network.forward_features(explainer.mean.expand(1, 3, *small.IMAGE_SIZE))
    explainer.start_from(network)
    torch.testing.assert_close(explainer.backbone.forward_features(explainer.mean.expand(1, 3, 8, 12)), features)
    own = {name.split(".")[0] for name in explainer.state_dict()} - {"backbone"}
    assert own == {"block", "mlp", "head"}


@torch.inference_mode()
def test_a_vit_leaves_the_surrogates_mask_channel_behind():
    explainer, pixels = vit((4, 6)), small.images()
    masked = small.scrambled(lambda: build_classifier(**small.network("vit"), extra_channels=1)).network
    before = {name: tensor.clone() for name, tensor in masked.state_dict().items()}
    explainer.start_from(masked)
    mask = torch.zeros(2, 1, *small.IMAGE_SIZE)  # what the channel's weights multiply
    expected = masked.forward_features(torch.cat([pixels, mask], dim=1))
    torch.testing.assert_close(explainer.backbone.forward_features(pixels), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in masked.state_dict().items())


def test_a_vit_explainer_needs_a_vision_transformer():
    params = {"backbone": {"name": "resnet", "params": small.PARAMS["resnet"]}}
    with pytest.raises(UserError, match=r"the backbone must be of timm.*, got ResNet; choose such a surrogate"):
        build_explainer(**(small.network("vit") | {"params": params, "grid": (2, 3)}))


class Pool(nn.Module):
    def forward(self, features: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(features, 2)


class Upsampled(nn.Module):
    """Of the two inputs of a way up, the one from below."""

    def forward(self, features: Tensor) -> Tensor:
        return features[:, : features.shape[1] // 2]


@torch.inference_mode()
def unet_means(grid: tuple[int, int], image: Tensor, levels: int) -> Tensor:
    """Return what a UNet whose every block passes on what it gets, without learning, says of each player."""
    explainer = UNetExplainer(PlayerGrid(small.IMAGE_SIZE, grid), 3, **small.PIXELS, channels=(4,) * levels)
    explainer.down = nn.ModuleList([nn.Identity(), *(Pool() for _ in range(levels - 1))])
    explainer.up = nn.ModuleDict({name: Upsampled() for name in explainer.up})
    explainer.head = nn.Identity()
    return explainer.predict(image)


@pytest.mark.parametrize(
    ("grid", "levels"),
    [((2, 3), 1), ((2, 3), 3), ((1, 3), 3), ((4, 6), 2), ((8, 12), 1), ((4, 6), 3), ((8, 12), 3), ((8, 3), 2)],
)
def test_a_unets_players_are_where_their_pixels_are(grid, levels):
    image = small.images()
    raw = unet_means(grid, image, levels)
    rows, columns = torch.meshgrid(torch.linspace(-1, 1, 8), torch.linspace(-1, 1, 12), indexing="ij")
    inputs = torch.cat([image, torch.stack([rows, columns]).expand(2, -1, -1, -1)], dim=1)
    # What goes all the way down comes back as the mean of a patch, or of the cell of the coarsest level that it is in.
    height, width = (max(side // players, 2 ** (levels - 1)) for side, players in zip((8, 12), grid, strict=True))
    for player in range(grid[0] * grid[1]):
        row = player // grid[1] * (8 // grid[0]) // height * height
        column = player % grid[1] * (12 // grid[1]) // width * width
        patch = inputs[:, :, row : row + height, column : column + width]
        torch.testing.assert_close(raw[:, player], patch.mean(dim=(2, 3)))


def test_a_unets_way_up_ends_at_the_coarsest_level_with_a_position_per_player():
    def resolutions(grid: tuple[int, int]) -> list[str]:
        return list(UNetExplainer(PlayerGrid((32, 32), grid), 3, **small.PIXELS, channels=(4, 4, 4, 4)).up)

    assert resolutions((32, 32)) == ["0", "1", "2"]
    assert resolutions((16, 8)) == ["1", "2"]
    assert resolutions((4, 4)) == []


@torch.inference_mode()
def test_a_unet_sees_the_whole_image_and_where_it_is():
    grid = PlayerGrid((16, 16), (16, 16))
    explainer = small.scrambled(lambda: UNetExplainer(grid, 2, **small.PIXELS, channels=(4, 4, 4, 4, 4)))
    grey = torch.full((1, 3, 16, 16), 0.5)
    spot = grey.clone()
    spot[..., 15, 15] = 0
    raw = explainer(grey)
    assert not torch.equal(raw[0, 0], explainer(spot)[0, 0])
    assert raw[0, 7 * 16 + 3 : 7 * 16 + 13].std(dim=0).min() > 1e-5  # all pixels equal, but not their places
