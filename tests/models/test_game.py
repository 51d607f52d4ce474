import itertools

import pytest
import torch
from torch import Tensor, nn

from fastshap_lab.errors import UserError
from fastshap_lab.models import ModelGame
from fastshap_lab.models.freezing import frozen_copy
from fastshap_lab.models.maskings import MASKINGS, Masking, build_masking, removals
from fastshap_lab.models.maskings.base import in_chunks
from fastshap_lab.shapley import LINKS, Game, PlayerGrid
from tests import small

IMAGE, COALITIONS = small.images(3), small.coalitions(3, 5, 6)


class Counter(Masking):
    """Keep the number of rows of every pass, and all coalitions asked for."""

    def __init__(self, classifier, masking: Masking) -> None:
        super().__init__(classifier, masking.players)
        self.masking, self.null_ignores_image = masking, masking.null_ignores_image
        self.rows: list[int] = []
        self.empty = 0

    def forward(self, classifier, image: Tensor, coalitions: Tensor, max_rows: int | None = None) -> Tensor:
        def one_pass(image: Tensor, coalitions: Tensor) -> Tensor:
            self.rows.append(coalitions[..., 0].numel())
            self.empty += int((~coalitions.any(dim=-1)).sum())
            return self.masking(classifier, image, coalitions)

        return in_chunks(one_pass, image, coalitions, max_rows)


def counted(game: ModelGame) -> Counter:
    game.masking = counter = Counter(game.classifier, game.masking)
    return counter


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("masking", MASKINGS)
def test_values_are_the_linked_logits_of_the_surrogate(masking, link):
    surrogate = small.surrogate(masking)
    game = frozen_copy(surrogate).game(link)
    values = game.values(IMAGE, COALITIONS)
    with torch.no_grad():
        for i in range(len(IMAGE)):
            logits = surrogate(IMAGE[i : i + 1], COALITIONS[i : i + 1])
            torch.testing.assert_close(values[i : i + 1], LINKS[link](logits), rtol=1e-5, atol=1e-5)
    assert (values[:, 0] - values[:, 1]).abs().max() > 1e-2
    assert isinstance(game, Game)
    assert (game.num_players, surrogate.num_classes) == (6, 3)


@pytest.mark.parametrize("masking", MASKINGS)
def test_grand_null_and_the_call_agree(masking):
    game = frozen_copy(small.surrogate(masking)).game()
    every, nobody = torch.ones(3, 1, 6, dtype=torch.bool), torch.zeros(3, 1, 6, dtype=torch.bool)
    close = {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(game.grand(IMAGE), game.values(IMAGE, every)[:, 0], **close)
    torch.testing.assert_close(game.null(IMAGE).expand(3, -1), game.values(IMAGE, nobody)[:, 0], **close)
    assert len(game.null(IMAGE)) == (1 if MASKINGS[masking].null_ignores_image else 3)
    for result, expected in zip(
        game(IMAGE, COALITIONS), (game.values(IMAGE, COALITIONS), game.grand(IMAGE), game.null(IMAGE)), strict=True
    ):
        torch.testing.assert_close(result, expected, **close)


@pytest.mark.parametrize("max_batch", [1, 4, 7, 15])
def test_chunks_are_no_larger_than_allowed_and_change_only_rounding(max_batch):
    surrogate = small.surrogate("mask_channel")
    game, whole = frozen_copy(surrogate).game(max_batch=max_batch), frozen_copy(surrogate).game()
    counter, all_at_once = counted(game), counted(whole)
    values, expected = game.values(IMAGE, COALITIONS), whole.values(IMAGE, COALITIONS)
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)
    assert max(counter.rows) <= max_batch
    assert [sum(counter.rows), all_at_once.rows] == [15, [15]]


def test_a_shared_null_is_asked_for_once_and_again_after_a_move():
    game = frozen_copy(small.surrogate("mask_channel")).game()
    counter = counted(game)
    first = game.null(IMAGE)
    for _ in range(3):
        game(IMAGE, torch.ones_like(COALITIONS))
        assert torch.equal(game.null(IMAGE[1:]), first)
    assert counter.empty == 1
    assert game.to("cpu") is game
    game.null(IMAGE)
    assert counter.empty == 2


def test_a_null_of_its_own_is_asked_for_each_image_in_the_same_batch():
    game = frozen_copy(small.surrogate("mean")).game()
    counter = counted(game)
    game(IMAGE, torch.ones_like(COALITIONS))
    assert [counter.rows, counter.empty] == [[3 * (5 + 2)], 3]


def test_the_surrogates_later_training_does_not_reach_the_game():
    surrogate = small.surrogate("mask_channel")
    game = frozen_copy(surrogate).game()
    before, answer = game.values(IMAGE, COALITIONS), surrogate(IMAGE, COALITIONS)
    surrogate.train()
    optimizer = torch.optim.SGD(surrogate.parameters(), lr=0.1)
    surrogate(IMAGE, COALITIONS).square().sum().backward()
    optimizer.step()
    assert torch.equal(game.values(IMAGE, COALITIONS), before)
    assert not torch.allclose(surrogate.eval()(IMAGE, COALITIONS), answer, atol=1e-2)


@pytest.mark.parametrize("asked_in_inference_mode", [False, True])
def test_answers_carry_no_gradient_and_may_be_part_of_a_loss(asked_in_inference_mode):
    game = frozen_copy(small.surrogate("mask_channel")).game()
    with torch.inference_mode(asked_in_inference_mode):  # as a validation before the first training step does
        game.null(IMAGE)
    image = IMAGE.clone().requires_grad_()
    values, grand, null = game(image, COALITIONS)
    assert not any(answer.requires_grad for answer in (values, grand, null))
    scale = torch.ones(3, requires_grad=True)
    # Products keep their factors for the backward pass, which inference tensors refuse.
    ((values * scale).sum() + (grand * scale).sum() + (null * scale).sum()).backward()
    torch.testing.assert_close(scale.grad, values.sum(dim=(0, 1)) + grand.sum(dim=0) + null.sum(dim=0))
    assert image.grad is None


@pytest.mark.parametrize("colour", [None, [0.9, 0.1, 0.2]])
@pytest.mark.parametrize("foreign", [False, True], ids=["classifier", "any module"])
def test_the_game_of_a_colour(foreign, colour):
    """Of any module's logits, and of a classifier, whose own space the colour is brought to."""
    model, image = small.classifier("resnet").double(), IMAGE.double()
    shown = torch.tensor(colour or ([0, 0, 0] if foreign else model.mean.flatten().tolist()), dtype=torch.float64)
    played = nn.Sequential(model) if foreign else model
    masking = build_masking({"name": "constant", "params": {"colour": colour}}, played, PlayerGrid((8, 12), (2, 3)))
    values, grand, null = ModelGame(played, masking, "softmax", max_batch=3)(image, COALITIONS)
    assert values.dtype == torch.float64
    with torch.no_grad():
        for b, m in itertools.product(range(3), range(5)):
            copy = image[b].clone()
            for p in (~COALITIONS[b, m]).nonzero().flatten().tolist():
                top, left = 4 * (p // 3), 4 * (p % 3)
                copy[:, top : top + 4, left : left + 4] = shown.view(3, 1, 1)
            torch.testing.assert_close(values[b, m], model(copy.unsqueeze(0)).softmax(dim=1)[0])
        torch.testing.assert_close(grand, model(image).softmax(dim=1))
        torch.testing.assert_close(null, model(shown.view(1, 3, 1, 1).expand(1, 3, 8, 12)).softmax(dim=1))


@pytest.mark.parametrize("masking", removals())
def test_maskings_of_pixels_serve_modules_that_take_channels_first_alone(masking):
    def plain(image: Tensor) -> Tensor:
        return image.view(len(image), -1)[:, :96] + 0  # a view that other layouts do not allow

    game = ModelGame(plain, MASKINGS[masking](plain, PlayerGrid((8, 12), (2, 3))), "logits")
    torch.testing.assert_close(game.grand(IMAGE), IMAGE.flatten(1)[:, :96])
    assert not torch.equal(game.values(IMAGE, COALITIONS)[0, 0], game.grand(IMAGE)[0])


def test_a_colour_has_a_number_for_each_channel_and_a_mask_channel_needs_a_network_that_knows_it():
    model, grid = nn.Flatten(), PlayerGrid((8, 12), (2, 3))
    with pytest.raises(UserError, match="colour: has 2 numbers; must have 3, one per channel"):
        ModelGame(model, MASKINGS["constant"](model, grid, [0.5, 0.5])).null(IMAGE)
    with pytest.raises(UserError, match="mask_channel: only a surrogate's network has a channel for the mask"):
        MASKINGS["mask_channel"](model, grid)
    with pytest.raises(UserError, match=r"link=softmaks: unknown, did you mean softmax\?"):
        ModelGame(model, MASKINGS["constant"](model, grid), "softmaks")
