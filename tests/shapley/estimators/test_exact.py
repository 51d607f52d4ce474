import numpy as np
import pytest
import shapiq
import torch

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.estimators import Exact, exact_shapley_values
from tests.oracles import (
    TableGame,
    UnanimityGame,
    members,
    permutation_shapley_values,
    regression_shapley_values,
    subset_shapley_values,
)


@pytest.mark.parametrize("oracle", [permutation_shapley_values, subset_shapley_values, regression_shapley_values])
def test_exact_values_match_their_definitions(oracle):
    game = TableGame.random(num_images=2, num_players=5, num_classes=3)
    torch.testing.assert_close(exact_shapley_values(game, game.image), oracle(game.table), rtol=0, atol=1e-10)


def test_exact_values_match_another_library():
    game = TableGame.random(num_images=1, num_players=8, num_classes=2)
    phi = exact_shapley_values(game, game.image)[0]
    for target in range(2):

        def value(coalitions: np.ndarray, target: int = target) -> np.ndarray:
            return game.values(game.image, torch.from_numpy(coalitions)[None])[0, :, target].numpy()

        expected = shapiq.ExactComputer(value, n_players=8)("SV", order=1)
        assert phi[:, target].tolist() == pytest.approx([expected[(player,)] for player in range(8)], abs=1e-10)


def test_values_of_a_float32_game_are_accumulated_in_float64():
    table = TableGame.random(num_images=1, num_players=8, num_classes=2).table.float()
    game = TableGame(table)
    torch.testing.assert_close(exact_shapley_values(game, game.image), subset_shapley_values(table), rtol=0, atol=1e-10)


def test_terms_share_what_they_pay():
    game = UnanimityGame.random(num_images=2, num_players=6, num_classes=2)
    torch.testing.assert_close(exact_shapley_values(game, game.image), game.phi, rtol=0, atol=1e-10)


def test_sixteen_players():
    game = TableGame.random(num_images=1, num_players=16, num_classes=2)
    alliance = 0b0100_0000_0001_0010  # the second class pays these three players, and only together
    game.table[0, :, 1] = torch.tensor([float(number & alliance == alliance) for number in range(2**16)])
    phi = exact_shapley_values(game, game.image)
    torch.testing.assert_close(phi.sum(dim=1), game.grand(game.image) - game.null(game.image))
    expected = torch.zeros(16, dtype=torch.float64)
    expected[members(alliance, 16)] = 1 / 3
    torch.testing.assert_close(phi[0, :, 1], expected)


def test_more_players_than_allowed_are_refused():
    game = TableGame(torch.zeros(1, 2**17, 1))
    with pytest.raises(UserError, match="17 players"):
        exact_shapley_values(game, game.image)
    small = TableGame.random(num_images=1, num_players=3, num_classes=1)
    with pytest.raises(UserError, match="at most 2 players are allowed"):
        exact_shapley_values(small, small.image, max_players=2)
    large = UnanimityGame.random(num_images=1, num_players=21, num_classes=1)
    with pytest.raises(UserError, match="at most 20 players are allowed"):
        Exact(large, large.image)


def test_nothing_is_said_before_the_last_coalition():
    game = TableGame.random(num_images=1, num_players=4, num_classes=1)
    exact = Exact(game, game.image)
    exact.advance(13)
    assert not exact.complete
    assert exact.estimate().stderr.isinf().all()
    exact.advance(1)
    assert exact.complete
    assert not exact.estimate().stderr.any()
