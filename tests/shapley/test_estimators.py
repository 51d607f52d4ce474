import numpy as np
import pytest
import shapiq
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley import estimators
from fastshap_lab.shapley.estimators import exact_shapley_values
from tests.oracles import (
    TableGame,
    members,
    permutation_shapley_values,
    regression_shapley_values,
    subset_shapley_values,
)

axiom = settings(deadline=None, max_examples=30, derandomize=True)  # a time limit would measure the first import


@st.composite
def tables(draw: st.DrawFn, num_games: int = 1) -> Tensor:
    """Tables of random games of the same 2 … 6 players, (num_games, 2^P, 1)."""
    size = 2 ** draw(st.integers(2, 6))
    values = draw(st.lists(st.floats(-100, 100), min_size=num_games * size, max_size=num_games * size))
    return torch.tensor(values, dtype=torch.float64).view(num_games, size, 1)


def exact(table: Tensor) -> Tensor:
    game = TableGame(table)
    return exact_shapley_values(game, game.image)


@pytest.mark.parametrize("oracle", [permutation_shapley_values, subset_shapley_values, regression_shapley_values])
def test_exact_values_match_their_definitions(oracle):
    game = TableGame.random(num_images=2, num_players=5, num_classes=3)
    torch.testing.assert_close(exact(game.table), oracle(game.table), rtol=0, atol=1e-10)


def test_exact_values_match_another_library():
    game = TableGame.random(num_images=1, num_players=8, num_classes=2)
    for target in range(2):

        def value(coalitions: np.ndarray, target: int = target) -> np.ndarray:
            return game.values(game.image, torch.from_numpy(coalitions)[None])[0, :, target].numpy()

        expected = shapiq.ExactComputer(value, n_players=8)("SV", order=1)
        phi = exact(game.table)[0, :, target]
        assert phi.tolist() == pytest.approx([expected[(player,)] for player in range(8)], abs=1e-10)


def test_values_of_a_float32_game_are_accumulated_in_float64():
    table = TableGame.random(num_images=1, num_players=8, num_classes=2).table.float()
    torch.testing.assert_close(exact(table), subset_shapley_values(table), rtol=0, atol=1e-10)


@axiom
@given(tables())
def test_efficiency(table: Tensor):
    torch.testing.assert_close(exact(table).sum(dim=1), table[:, -1] - table[:, 0], rtol=0, atol=1e-9)


@axiom
@given(tables(), st.data())
def test_players_that_swap_without_effect_get_the_same(table: Tensor, data: st.DataObject):
    num_players = table.shape[1].bit_length() - 1
    one, other = data.draw(st.permutations(range(num_players)))[:2]
    swap = {one: other, other: one}
    swapped = [sum(2 ** swap.get(i, i) for i in members(n, num_players)) for n in range(2**num_players)]
    phi = exact(table + table[:, swapped])[0, :, 0]
    assert float(phi[one]) == pytest.approx(float(phi[other]), abs=1e-9)


@axiom
@given(tables(), st.data())
def test_player_that_adds_a_constant_gets_the_constant(table: Tensor, data: st.DataObject):
    num_players = table.shape[1].bit_length() - 1
    dummy, constant = data.draw(st.integers(0, num_players - 1)), data.draw(st.floats(-100, 100))
    for number in range(2**num_players):
        if dummy in members(number, num_players):
            table[:, number] = table[:, number - 2**dummy] + constant
    assert float(exact(table)[0, dummy, 0]) == pytest.approx(constant, abs=1e-9)


@axiom
@given(tables(num_games=2), st.floats(-10, 10))
def test_values_of_a_sum_of_games_are_the_sum_of_values(table: Tensor, factor: float):
    first, second = exact(table)
    torch.testing.assert_close(exact(table[:1] + factor * table[1:])[0], first + factor * second, rtol=0, atol=1e-9)


def test_sixteen_players():
    game = TableGame.random(num_images=1, num_players=16, num_classes=2)
    alliance = 0b0100_0000_0001_0010  # the second class pays these three players, and only together
    game.table[0, :, 1] = torch.tensor([float(number & alliance == alliance) for number in range(2**16)])
    phi = exact(game.table)
    torch.testing.assert_close(phi.sum(dim=1), game.grand(game.image) - game.null(game.image))
    expected = torch.zeros(16, dtype=torch.float64)
    expected[members(alliance, 16)] = 1 / 3
    torch.testing.assert_close(phi[0, :, 1], expected)


def test_more_players_than_allowed_are_refused():
    with pytest.raises(UserError, match="17 players"):
        exact(torch.zeros(1, 2**17, 1))
    small = TableGame.random(num_images=1, num_players=3, num_classes=1)
    with pytest.raises(UserError, match="at most 2 allowed"):
        exact_shapley_values(small, small.image, max_players=2)


@pytest.mark.parametrize("block", [1, 7, 32])
def test_coalitions_are_asked_for_in_blocks_that_do_not_change_the_result(block: int, monkeypatch: pytest.MonkeyPatch):
    asked = []

    class Recorded(TableGame):
        def values(self, image: Tensor, coalitions: Tensor) -> Tensor:
            asked.append(coalitions.shape[:2].numel())
            return super().values(image, coalitions)

    game = Recorded.random(num_images=2, num_players=5, num_classes=3)
    monkeypatch.setattr(estimators, "_BLOCK", block)
    phi = exact_shapley_values(game, game.image)
    torch.testing.assert_close(phi, subset_shapley_values(game.table), rtol=0, atol=1e-10)
    assert max(asked) == block
    assert sum(asked) == 2 * 32
