import pytest
import torch
from torch import Tensor

from fastshap_lab.models import SurrogateGame
from fastshap_lab.models.maskings import MASKINGS, Masking
from fastshap_lab.models.maskings.base import in_rectangles
from fastshap_lab.shapley import LINKS, Game
from tests import small

IMAGE, COALITIONS = small.images(3), small.coalitions(3, 5, 6)


class Counter(Masking):
    """Keep the number of rows of every pass, and all coalitions asked for."""

    def __init__(self, classifier, masking: Masking) -> None:
        super().__init__(classifier, masking.grid)
        self.masking, self.null_ignores_image = masking, masking.null_ignores_image
        self.rows: list[int] = []
        self.empty = 0

    def forward(self, classifier, image: Tensor, coalitions: Tensor, max_rows: int | None = None) -> Tensor:
        def one_pass(image: Tensor, coalitions: Tensor) -> Tensor:
            self.rows.append(coalitions[..., 0].numel())
            self.empty += int((~coalitions.any(dim=-1)).sum())
            return self.masking(classifier, image, coalitions)

        return in_rectangles(one_pass, image, coalitions, max_rows)


def counted(game: SurrogateGame) -> Counter:
    game.surrogate.masking = counter = Counter(game.surrogate.classifier, game.surrogate.masking)
    return counter


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("masking", MASKINGS)
def test_values_are_the_linked_logits_of_the_surrogate(masking, link):
    surrogate = small.surrogate(masking)
    game = SurrogateGame(surrogate, link)
    values = game.values(IMAGE, COALITIONS)
    with torch.no_grad():
        for i in range(len(IMAGE)):
            logits = surrogate(IMAGE[i : i + 1], COALITIONS[i : i + 1])
            torch.testing.assert_close(values[i : i + 1], LINKS[link](logits), rtol=1e-5, atol=1e-5)
    assert (values[:, 0] - values[:, 1]).abs().max() > 1e-2
    assert isinstance(game, Game)
    assert (game.num_players, game.num_classes) == (6, 3)


@pytest.mark.parametrize("masking", MASKINGS)
def test_grand_null_and_the_call_agree(masking):
    game = SurrogateGame(small.surrogate(masking))
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
    game, whole = SurrogateGame(surrogate, max_batch=max_batch), SurrogateGame(surrogate)
    counter, all_at_once = counted(game), counted(whole)
    values, expected = game.values(IMAGE, COALITIONS), whole.values(IMAGE, COALITIONS)
    torch.testing.assert_close(values, expected, rtol=1e-6, atol=1e-6)
    assert max(counter.rows) <= max_batch
    assert [sum(counter.rows), all_at_once.rows] == [15, [15]]


def test_a_shared_null_is_asked_for_once_and_again_after_a_move():
    game = SurrogateGame(small.surrogate("mask_channel"))
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
    game = SurrogateGame(small.surrogate("mean"))
    counter = counted(game)
    game(IMAGE, torch.ones_like(COALITIONS))
    assert [counter.rows, counter.empty] == [[3 * (5 + 2)], 3]


def test_the_surrogates_later_training_does_not_reach_the_game():
    surrogate = small.surrogate("mask_channel")
    game = SurrogateGame(surrogate)
    before, answer = game.values(IMAGE, COALITIONS), surrogate(IMAGE, COALITIONS)
    surrogate.train()
    optimizer = torch.optim.SGD(surrogate.parameters(), lr=0.1)
    surrogate(IMAGE, COALITIONS).square().sum().backward()
    optimizer.step()
    assert torch.equal(game.values(IMAGE, COALITIONS), before)
    assert not torch.allclose(surrogate.eval()(IMAGE, COALITIONS), answer, atol=1e-2)


@pytest.mark.parametrize("asked_in_inference_mode", [False, True])
def test_answers_carry_no_gradient_and_may_be_part_of_a_loss(asked_in_inference_mode):
    game = SurrogateGame(small.surrogate("mask_channel"))
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
