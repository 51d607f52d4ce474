import itertools

import pytest
import torch

from fastshap_lab.shapley.estimators.permutation import Permutation, arrivals, marginal_contributions
from tests.oracles import TableGame, permutation_shapley_values


def test_coalitions_form_as_players_arrive():
    assert arrivals(torch.tensor([[2, 0, 1]])).tolist() == [[[False, False, True], [True, False, True]]]


@pytest.mark.parametrize("num_players", [2, 3, 4])
def test_all_orders_give_the_exact_values(num_players: int):
    game = TableGame.random(num_images=2, num_players=num_players, num_classes=3)
    orders = torch.tensor(list(itertools.permutations(range(num_players))))
    coalitions = arrivals(orders)  # (N, P - 1, P)
    values = game.values(game.image, coalitions.flatten(0, 1).expand(2, -1, -1)).unflatten(1, coalitions.shape[:2])
    added = marginal_contributions(orders, values, game.grand(game.image), game.null(game.image))
    torch.testing.assert_close(added.mean(dim=1), permutation_shapley_values(game.table), rtol=0, atol=1e-12)


def test_a_pair_is_an_order_and_its_reverse():
    asked = []

    class Recorded(TableGame):
        def values(self, image: torch.Tensor, coalitions: torch.Tensor) -> torch.Tensor:
            asked.append(coalitions[0])
            return super().values(image, coalitions)

    game = Recorded.random(num_images=1, num_players=5, num_classes=1)
    permutation = Permutation(game, game.image)
    permutation.advance(15)  # a pair takes 8
    (coalitions,) = asked
    assert coalitions.sum(dim=1).tolist() == [1, 2, 3, 4, 1, 2, 3, 4]
    assert torch.equal(coalitions[:4], ~coalitions[4:].flip(0))
    permutation.advance(1)  # the second is drawn afresh
    assert not torch.equal(asked[1], coalitions)


def test_errors_are_those_of_the_mean_over_pairs():
    game = TableGame.random(num_images=2, num_players=4, num_classes=3)
    pairs = []
    for _ in range(5):
        permutation = Permutation(game, game.image)
        permutation.advance(6 * (len(pairs) + 1))
        mean = permutation.estimate().phi
        pairs.append(mean * (len(pairs) + 1) - sum(pairs))
    torch.testing.assert_close(permutation.estimate().stderr, torch.stack(pairs).std(dim=0) / 5**0.5)
