"""What every entry of ``MASKINGS`` promises, with every network that it accepts."""

import pytest
import torch
from torch import nn

from fastshap_lab.errors import UserError
from fastshap_lab.models import CLASSIFIERS, Surrogate, build_surrogate
from fastshap_lab.models.maskings import MASKINGS
from tests import small

# With tokens that can be hidden, and without.
NETWORKS = {
    "resnet": small.network("resnet"),
    "vit": small.network("vit"),
    "swin": small.network("swin", patch_size=2, window_size=2, width=6, depths=[2, 1], num_heads=[1, 2]),
    "timm's vit": small.network("timm", (32, 48), model="test_vit", patch_size=8),
    "timm's convnext": small.network("timm", (32, 48), model="test_convnext"),
    "torchvision's shufflenet": small.network("torchvision", (32, 48), model="shufflenet_v2_x0_5"),
}
ELSEWHERE = {"import", "transformers"}  # in tests/models/test_libraries.py and, with the library, tests/stages
REFUSED = {
    **{("resnet", masking): "ResNet is not of timm's" for masking in small.OF_TOKENS},
    **{("swin", masking): "SwinTransformer is not of timm's" for masking in small.OF_TOKENS},
    **{("timm's convnext", masking): "ConvNeXt is not of timm's" for masking in small.OF_TOKENS},
    **{("torchvision's shufflenet", masking): "ShuffleNetV2 is not of timm's" for masking in small.OF_TOKENS},
}
PARAMS = {"constant": {"colour": [0.9, 0.1, 0.2]}, "blur": {"width": 2.5}, "rise_blur": {"colour": [0.9, 0.1, 0.2]}}
GRIDS = [(4, 6), (2, 3), (2, 6), (1, 3)]


def built(network: str, masking: str, grid: tuple[int, int] = (2, 3)) -> Surrogate:
    """Build the surrogate of a network; a masking's name with a ``+`` has arguments."""
    name = masking.removesuffix("+")
    chosen = name if masking == name else {"name": name, "params": PARAMS[name]}
    return small.scrambled(lambda: build_surrogate(NETWORKS[network], chosen, grid))


def last_layer(network: nn.Module) -> nn.Module:
    return [part for part in network.modules() if isinstance(part, nn.Linear)][-1]


NAMES = {kind: name for name, kind in MASKINGS.items()}.values()  # one for each class
PAIRS = [(network, masking) for network in NETWORKS for masking in NAMES if (network, masking) not in REFUSED]
CASES = [(*pair, grid) for pair in PAIRS for grid in (GRIDS if pair[0] in ("resnet", "vit") else GRIDS[1:2])]
CASES += [("resnet", f"{masking}+", (2, 3)) for masking in PARAMS]


@pytest.fixture(params=CASES, ids=str)
def surrogate(request: pytest.FixtureRequest) -> Surrogate:
    return built(*request.param)


def images(surrogate: Surrogate, number: int = 1, seed: int = 0) -> torch.Tensor:
    return small.images(number, surrogate.grid.image_size, seed)


@pytest.mark.parametrize(("pair", "reason"), REFUSED.items(), ids=str)
def test_what_a_masking_refuses_it_refuses_with_a_reason(pair, reason):
    with pytest.raises(UserError, match=f"surrogate.masking={pair[1]}: {reason}.*any network takes"):
        built(*pair)


def test_every_masking_accepts_some_network_and_every_table_entry_is_tried():
    assert {masking for _, masking in PAIRS} == set(NAMES)
    assert {network["name"] for network in NETWORKS.values()} == CLASSIFIERS.keys() - ELSEWHERE


@torch.inference_mode()
def test_logits_follow_the_visible_pixels_and_others_only_where_declared(surrogate):
    image, noise, num_players = images(surrogate), images(surrogate, seed=1), surrogate.grid.num_players
    coalition = small.coalitions(1, 1, num_players, seed=2)
    coalition[..., 0], coalition[..., -1] = True, False
    pixels = surrogate.grid.to_pixels(coalition)[:, 0]
    logits = surrogate(image, coalition)
    elsewhere = surrogate(torch.where(pixels, image, noise), coalition)
    assert torch.equal(elsewhere, logits) == surrogate.masking.null_ignores_image
    for player in coalition[0, 0].nonzero().flatten().tolist():
        only = surrogate.grid.to_pixels(torch.arange(num_players).view(1, 1, -1) == player)[:, 0]
        assert not torch.allclose(surrogate(torch.where(only, noise, image), coalition), logits, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_leaving_a_player_out_is_noticed(surrogate):
    num_players = surrogate.grid.num_players
    without = torch.cat([torch.ones(1, num_players, dtype=torch.bool), ~torch.eye(num_players, dtype=torch.bool)])
    full, *rest = surrogate(images(surrogate), without.unsqueeze(0))[0]
    assert all((full - logits).abs().max() > 1e-5 for logits in rest)


@torch.inference_mode()
def test_the_null_coalition_ignores_the_image_as_declared(surrogate):
    nobody = torch.zeros(2, 1, surrogate.grid.num_players, dtype=torch.bool)
    first, second = surrogate(images(surrogate, 2), nobody)
    assert torch.allclose(first, second, rtol=0, atol=1e-6) == surrogate.masking.null_ignores_image


@torch.inference_mode()
def test_rows_are_independent_and_in_order(surrogate):
    image, coalitions = images(surrogate, 2), small.coalitions(2, 3, surrogate.grid.num_players)
    logits = surrogate(image, coalitions)
    assert logits.shape == (2, 3, 3)
    for i in range(2):
        for m in range(3):
            one = surrogate(image[i : i + 1], coalitions[i : i + 1, m : m + 1])
            torch.testing.assert_close(logits[i : i + 1, m : m + 1], one, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("max_rows", [1, 4, 5, 7])
def test_passes_have_no_more_rows_than_allowed_and_change_only_rounding(surrogate, max_rows):
    classifier, image = surrogate.classifier, images(surrogate, 3)
    coalitions = small.coalitions(3, 5, surrogate.grid.num_players)
    rows = []
    hook = last_layer(classifier.network).register_forward_hook(lambda module, given, logits: rows.append(len(logits)))
    answer = surrogate.masking(classifier, image, coalitions, max_rows)
    hook.remove()
    assert max(rows) <= max_rows
    assert sum(rows) == 15
    torch.testing.assert_close(answer, surrogate(image, coalitions), rtol=1e-5, atol=1e-6)


def test_gradients_reach_every_weight_of_the_network(surrogate):
    surrogate.train()
    surrogate(images(surrogate, 4), small.coalitions(4, 2, surrogate.grid.num_players)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in surrogate.classifier.network.parameters())


def test_gradients_reach_the_image(surrogate):
    """An attribution method may ask the surrogate for them."""
    image, coalition = images(surrogate).requires_grad_(), small.coalitions(1, 1, surrogate.grid.num_players, seed=2)
    coalition[..., 0], coalition[..., -1] = True, False
    surrogate(image, coalition).square().sum().backward()
    present = surrogate.grid.to_pixels(coalition)[0, 0].expand(3, -1, -1)
    assert (image.grad[0][present] != 0).float().mean() > 0.9
    assert bool((image.grad[0][~present] == 0).all()) == surrogate.masking.null_ignores_image
