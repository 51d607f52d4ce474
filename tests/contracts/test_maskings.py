"""What every entry of ``MASKINGS`` promises, with every network that it accepts."""

import pytest
import torch
from torch import nn

from fastshap_lab.errors import UserError
from fastshap_lab.models import CLASSIFIERS, Surrogate
from fastshap_lab.models.maskings import MASKINGS
from tests import small


def accepted() -> list[tuple[str, str]]:
    pairs = []
    for masking in MASKINGS:
        for name in CLASSIFIERS:
            try:
                small.surrogate(masking, name=name)
            except UserError:
                continue
            pairs.append((masking, name))
    return pairs


def last_layer(network: nn.Module) -> nn.Module:
    return [part for part in network.modules() if isinstance(part, nn.Linear)][-1]


PAIRS = accepted()
GRIDS = [(4, 6), (2, 3), (2, 6), (1, 3)]


@pytest.fixture(params=[(*pair, grid) for pair in PAIRS for grid in GRIDS], ids=str)
def surrogate(request: pytest.FixtureRequest) -> Surrogate:
    masking, name, grid = request.param
    return small.surrogate(masking, grid, name=name)


def test_every_masking_accepts_some_network():
    assert {masking for masking, _ in PAIRS} == MASKINGS.keys()


@torch.inference_mode()
def test_logits_follow_the_visible_pixels_and_others_only_where_declared(surrogate):
    image, noise, num_players = small.images(1), small.images(1, seed=1), surrogate.grid.num_players
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
    full, *rest = surrogate(small.images(1), without.unsqueeze(0))[0]
    assert all((full - logits).abs().max() > 1e-5 for logits in rest)


@torch.inference_mode()
def test_the_null_coalition_ignores_the_image_as_declared(surrogate):
    nobody = torch.zeros(2, 1, surrogate.grid.num_players, dtype=torch.bool)
    first, second = surrogate(small.images(2), nobody)
    assert torch.allclose(first, second, rtol=0, atol=1e-6) == surrogate.masking.null_ignores_image


@torch.inference_mode()
def test_rows_are_independent_and_in_order(surrogate):
    image, coalitions = small.images(2), small.coalitions(2, 3, surrogate.grid.num_players)
    logits = surrogate(image, coalitions)
    assert logits.shape == (2, 3, 3)
    for i in range(2):
        for m in range(3):
            one = surrogate(image[i : i + 1], coalitions[i : i + 1, m : m + 1])
            torch.testing.assert_close(logits[i : i + 1, m : m + 1], one, rtol=1e-5, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("max_rows", [1, 4, 5, 7])
def test_passes_have_no_more_rows_than_allowed_and_change_only_rounding(surrogate, max_rows):
    classifier, image = surrogate.classifier, small.images(3)
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
    surrogate(small.images(4), small.coalitions(4, 2, surrogate.grid.num_players)).square().sum().backward()
    assert all(parameter.grad.any() for parameter in surrogate.classifier.network.parameters())


def test_gradients_reach_the_image(surrogate):
    """An attribution method may ask the surrogate for them."""
    image, coalition = small.images(1).requires_grad_(), small.coalitions(1, 1, surrogate.grid.num_players, seed=2)
    coalition[..., 0], coalition[..., -1] = True, False
    surrogate(image, coalition).square().sum().backward()
    present = surrogate.grid.to_pixels(coalition)[0, 0].expand(3, -1, -1)
    assert (image.grad[0][present] != 0).float().mean() > 0.9
    assert bool((image.grad[0][~present] == 0).all()) == surrogate.masking.null_ignores_image
