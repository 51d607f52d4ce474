"""What holds for every entry of the table of estimators."""

import math
from collections.abc import Callable

import pytest
import shapiq
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley.estimators import ESTIMATORS, Estimate, base, relative_error, shapley_values
from fastshap_lab.shapley.game import Game
from tests.oracles import TableGame, UnanimityGame, members, subset_shapley_values

axiom = settings(deadline=None, max_examples=20, derandomize=True)  # a time limit would measure the first import
every = pytest.mark.parametrize("name", ESTIMATORS)
drawing = pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - {"exact"}))
# The prior of kriging is averaged by the evidence, which is not linear, and leans towards the equal split.
linear = pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - {"kriging"}))
unbiased = pytest.mark.parametrize("name", sorted(ESTIMATORS.keys() - {"exact", "kriging"}))


@st.composite
def tables(draw: st.DrawFn, num_games: int = 1) -> Tensor:
    """Tables of random games of the same 2 … 6 players, (num_games, 2^P, 1)."""
    size = 2 ** draw(st.integers(2, 6))
    values = draw(st.lists(st.floats(-100, 100), min_size=num_games * size, max_size=num_games * size))
    return torch.tensor(values, dtype=torch.float64).view(num_games, size, 1)


def estimate(name: str, game: TableGame | UnanimityGame, evaluations: int, seed: int = 0) -> Estimate:
    run = ESTIMATORS[name](game, game.image, seed)
    run.advance(evaluations)
    return run.estimate()


def assert_equal(one: Estimate, other: Estimate, atol: float = 0.0) -> None:
    assert one.evaluations == other.evaluations
    torch.testing.assert_close(one.phi, other.phi, rtol=0, atol=atol)
    torch.testing.assert_close(one.stderr, other.stderr, rtol=0, atol=atol)


# Exact values


@every
@pytest.mark.parametrize("num_players", [2, 3, 6, 7])
def test_complete_evidence_gives_exact_values(name: str, num_players: int):
    game = TableGame.random(num_images=2, num_players=num_players, num_classes=3)
    run = ESTIMATORS[name](game, game.image)
    run.advance(10**3)
    found, exact = run.estimate(), subset_shapley_values(game.table)
    if run.complete:
        assert run.evaluations <= 2**num_players - 2
        torch.testing.assert_close(found.phi, exact, rtol=0, atol=1e-10)
        assert not found.stderr.any()
        run.advance(10)
        assert run.evaluations == found.evaluations
    else:
        assert ((found.phi - exact).abs() <= 4.5 * found.stderr + 1e-10).all()


class FeatureGame:
    """What a small network says of rows of features, of which absent ones take a background value; interactions galore.

    Args:
        embed: Takes rows to numbers, (…, F).
        num_features: F, each of them a player.
    """

    def __init__(self, embed: Callable[[Tensor], Tensor], num_features: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.embed, self.num_players = embed, num_features
        self.inner = torch.randn(num_features, 5, generator=generator, dtype=torch.float64)
        self.outer = torch.randn(5, 3, generator=generator, dtype=torch.float64)

    def values(self, rows: Tensor, coalitions: Tensor) -> Tensor:
        shown = torch.where(coalitions, self.embed(rows).unsqueeze(1), 0.3)
        return (shown @ self.inner).tanh() @ self.outer

    def grand(self, rows: Tensor) -> Tensor:
        return self.values(rows, torch.ones(len(rows), 1, self.num_players, dtype=torch.bool))[:, 0]

    def null(self, rows: Tensor) -> Tensor:
        return self.values(rows[:1], torch.zeros(1, 1, self.num_players, dtype=torch.bool))[:, 0]

    def __call__(self, rows: Tensor, coalitions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.values(rows, coalitions), self.grand(rows), self.null(rows)


@every
@pytest.mark.parametrize("kind", ["features", "tokens"])
def test_inputs_need_not_be_images(name: str, kind: str):
    generator = torch.Generator().manual_seed(1)
    if kind == "features":
        rows, embed = torch.randn(4, 6, generator=generator, dtype=torch.float64), torch.Tensor.double
    else:
        rows = torch.randint(9, (4, 6), generator=generator)
        embed = torch.randn(9, generator=generator, dtype=torch.float64).__getitem__
    game = FeatureGame(embed, 6)
    assert isinstance(game, Game)
    everyone = torch.tensor([[i in members(number, 6) for i in range(6)] for number in range(2**6)])
    exact = subset_shapley_values(game.values(rows, everyone.expand(4, -1, -1)))
    found = shapley_values(game, rows, name, budget=2000)
    if name == "permutation":  # which never ends
        assert ((found.phi - exact).abs() <= 4.5 * found.stderr).all()
    else:
        torch.testing.assert_close(found.phi, exact, rtol=0, atol=1e-10)
    if kind == "features":  # another library, given the same rows
        single = shapiq.ExactComputer(
            lambda asked: game.values(rows[:1], torch.from_numpy(asked)[None])[0, :, 2].numpy(), n_players=6
        )("SV", order=1)
        assert exact[0, :, 2].tolist() == pytest.approx([single[(player,)] for player in range(6)], abs=1e-10)


@drawing
def test_large_games_within_their_errors(name: str):
    game = UnanimityGame.random(num_images=2, num_players=24, num_classes=3)  # some sizes have a million coalitions
    found = estimate(name, game, 1500)
    assert ((found.phi - game.phi).abs() <= 4.5 * found.stderr).all()
    assert (found.stderr.square().mean() < 0.1 * game.phi.var(dim=1).mean()).all()


# The axioms


@every
@axiom
@given(table=tables(), evaluations=st.integers(0, 70), seed=st.integers(0, 2**63))
def test_efficiency_of_every_estimate(name: str, table: Tensor, evaluations: int, seed: int):
    found = estimate(name, TableGame(table), evaluations, seed)
    if found.stderr.isfinite().all():
        torch.testing.assert_close(found.phi.sum(dim=1), table[:, -1] - table[:, 0], rtol=0, atol=1e-8)


@linear
@axiom
@given(table=tables(num_games=2), factor=st.floats(-10, 10), evaluations=st.integers(0, 70))
def test_estimates_of_a_sum_of_games_are_the_sum_of_estimates(
    name: str, table: Tensor, factor: float, evaluations: int
):
    first, second = estimate(name, TableGame(table), evaluations).phi
    total = estimate(name, TableGame(table[:1] + factor * table[1:]), evaluations).phi[0]
    torch.testing.assert_close(total, first + factor * second, rtol=0, atol=1e-8)


@every
@axiom
@given(table=tables(), data=st.data())
def test_players_that_swap_without_effect_get_the_same(name: str, table: Tensor, data: st.DataObject):
    num_players = table.shape[1].bit_length() - 1
    one, other = data.draw(st.permutations(range(num_players)))[:2]
    swap = {one: other, other: one}
    swapped = [sum(2 ** swap.get(i, i) for i in members(n, num_players)) for n in range(2**num_players)]
    game = TableGame(table + table[:, swapped])
    run = ESTIMATORS[name](game, game.image)
    run.advance(2**num_players - 2)
    if run.complete:
        phi = run.estimate().phi[0, :, 0]
        assert float(phi[one]) == pytest.approx(float(phi[other]), abs=1e-8)
    else:  # nothing can be said of one run: the mean over many
        gaps = torch.stack(
            [(phi := estimate(name, game, 2**num_players, seed).phi)[0, one] - phi[0, other] for seed in range(40)]
        )
        assert gaps.mean().abs() <= 5 * gaps.std() / 40**0.5 + 1e-8


@every
@axiom
@given(table=tables(), data=st.data())
def test_player_that_adds_a_constant_gets_the_constant(name: str, table: Tensor, data: st.DataObject):
    num_players = table.shape[1].bit_length() - 1
    dummy, constant = data.draw(st.integers(0, num_players - 1)), data.draw(st.floats(-100, 100))
    for number in range(2**num_players):
        if dummy in members(number, num_players):
            table[:, number] = table[:, number - 2**dummy] + constant
    game = TableGame(table)
    run = ESTIMATORS[name](game, game.image)
    run.advance(2**num_players - 2)
    assert float(run.estimate().phi[0, dummy, 0]) == pytest.approx(constant, abs=1e-8)


# Errors


@pytest.fixture(scope="module", params=["noise", "terms"])
def trial(request: pytest.FixtureRequest) -> tuple[TableGame, Tensor]:
    """Games of 8 players, 10 of them at once, without any order or with interactions of up to four; exact values."""
    if request.param == "noise":
        game = TableGame.random(num_images=1, num_players=8, num_classes=10)
    else:
        terms = UnanimityGame.random(num_images=1, num_players=8, num_classes=10)
        everyone = torch.tensor([[[i in members(n, 8) for i in range(8)] for n in range(2**8)]])
        game = TableGame(terms.values(terms.image, everyone))
    return game, subset_shapley_values(game.table)


@unbiased
def test_estimates_are_unbiased_and_their_intervals_cover(name: str, trial: tuple[TableGame, Tensor]):
    game, exact = trial
    runs = [estimate(name, game, 140, seed) for seed in range(100)]
    errors, stderr = torch.stack([run.phi for run in runs]) - exact, torch.stack([run.stderr for run in runs])
    variance = errors.var(dim=0)
    bias_squared = errors.mean(dim=0).square() - variance / 100  # less what chance adds to it
    assert bias_squared.mean() < 0.02 * variance.mean()  # a regression's bias shrinks faster than its errors
    assert 0.90 < (errors.abs() <= 1.96 * stderr).double().mean() < 0.99
    assert float((stderr.square().mean() / variance.mean()).sqrt()) == pytest.approx(1, abs=0.1)


@every
def test_no_budget_makes_anything_undefined(name: str):
    game = TableGame.random(num_images=2, num_players=5, num_classes=2)
    run = ESTIMATORS[name](game, game.image)
    for granted in range(31):
        found = run.estimate()
        assert found.phi.shape == found.stderr.shape == (2, 5, 2)
        assert found.phi.dtype == found.stderr.dtype == torch.float64
        assert found.phi.isfinite().all()
        assert (found.stderr >= 0).all()  # and no NaN
        assert found.evaluations <= granted
        run.advance(1)


@every
@pytest.mark.parametrize("evaluations", [24, 30])
def test_flat_game_has_no_values_and_no_error_once_that_is_certain(name: str, evaluations: int):
    game = TableGame(torch.full((1, 2**5, 1), 0.3))
    run = ESTIMATORS[name](game, game.image)
    run.advance(evaluations)
    found = run.estimate()
    assert (found.stderr == (0 if run.complete else math.inf)).all()
    if found.evaluations == 30 or name != "exact":
        assert found.phi.abs().max() < 1e-12


def majority(num_players: int) -> TableGame:
    sizes = torch.tensor([len(members(number, num_players)) for number in range(2**num_players)])
    return TableGame((2 * sizes > num_players).double().view(1, -1, 1))


def rare_coalition(num_players: int) -> TableGame:
    """A game in which a single coalition pays."""
    return TableGame(torch.eye(2**num_players, dtype=torch.float64)[:, [0b0010110101]].unsqueeze(0))


@drawing
@pytest.mark.parametrize("game", [majority(10), rare_coalition(10)], ids=["majority", "rare coalition"])
def test_no_error_is_zero_before_values_are_exact(name: str, game: TableGame):
    """Permutation sampling said 0 of wrong values where two pairs of orders happened to agree."""
    exact = subset_shapley_values(game.table)
    for evaluations in (40, 100, 500):
        for seed in range(5):
            found = estimate(name, game, evaluations, seed)
            wrong = (found.phi - exact).abs() > 1e-9
            assert (found.stderr[wrong] > 0).all()
            assert found.evaluations == 1022 or (found.stderr > 0).all()


@every
@pytest.mark.parametrize("num_players", [2, 3, 4, 9])
def test_smallest_budget_is_where_errors_begin(name: str, num_players: int):
    game = TableGame.random(num_images=1, num_players=num_players, num_classes=2)
    budget = ESTIMATORS[name].smallest_budget(num_players)
    assert estimate(name, game, budget).stderr.isfinite().all()
    assert estimate(name, game, budget - 1).stderr.isinf().all()


class NeedsCoalitions(TableGame):
    """Refuses to be asked for nothing, as convolutions do."""

    def values(self, image: Tensor, coalitions: Tensor) -> Tensor:
        assert coalitions.shape[1]
        return super().values(image, coalitions)


@every
@pytest.mark.parametrize("budget", [1, 3, 65, 2**6 + 1])
def test_budget_that_buys_no_sample_changes_nothing(name: str, budget: int):
    """A step of one evaluation asked a game of pairs for no coalitions at all."""
    game = NeedsCoalitions.random(num_images=2, num_players=7, num_classes=2)
    run = ESTIMATORS[name](game, game.image)
    for _ in range(2):
        run.advance(budget // 2)
        run.advance(budget - budget // 2)
    assert run.evaluations <= 2 * budget
    shapley_values(game, game.image, name, budget=budget, tolerance=1e-6)


# Draws


class Recorded(TableGame):
    """Remembers what it was asked."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(table)
        self.asked: list[Tensor] = []
        self.ends = 0

    def values(self, image: Tensor, coalitions: Tensor) -> Tensor:
        self.asked.append(coalitions)
        return super().values(image, coalitions)

    def grand(self, image: Tensor) -> Tensor:
        self.ends += 1
        return super().grand(image)


@every
def test_images_get_the_same_coalitions_alone_and_in_a_batch(name: str):
    game = TableGame.random(num_images=3, num_players=6, num_classes=2)
    together = estimate(name, game, 40)
    for image in range(3):
        alone = estimate(name, TableGame(game.table[image : image + 1]), 40)
        torch.testing.assert_close(alone.phi[0], together.phi[image], rtol=0, atol=1e-12)
        torch.testing.assert_close(alone.stderr[0], together.stderr[image], rtol=0, atol=1e-7)


@every
@pytest.mark.parametrize("block", [1, 7, 64])
def test_coalitions_are_asked_for_in_blocks_that_do_not_change_the_result(
    name: str, block: int, monkeypatch: pytest.MonkeyPatch
):
    game = Recorded.random(num_images=2, num_players=6, num_classes=2)
    expected = estimate(name, game, 40)
    assert sum(asked.shape[1] for asked in game.asked) == expected.evaluations
    assert game.ends == 1
    game.asked = []
    monkeypatch.setattr(base, "_BLOCK", block)
    found = estimate(name, game, 40)
    assert max(asked.shape[:2].numel() for asked in game.asked) <= max(block, 2)  # one coalition of each image at least
    assert sum(asked.shape[1] for asked in game.asked) == expected.evaluations
    assert_equal(found, expected, atol=1e-7)


@every
@axiom
@given(splits=st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_how_a_budget_is_split_does_not_change_the_result(name: str, splits: list[int]):
    game = TableGame.random(num_images=2, num_players=6, num_classes=2)
    run = ESTIMATORS[name](game, game.image)
    for part in splits:
        run.advance(part)
    assert run.evaluations <= sum(splits)
    assert_equal(run.estimate(), estimate(name, game, sum(splits)), atol=1e-7)


@drawing
def test_seed_decides_every_bit(name: str):
    game = TableGame.random(num_images=2, num_players=8, num_classes=2)
    assert_equal(estimate(name, game, 98, seed=1), estimate(name, game, 98, seed=1))
    assert not torch.equal(estimate(name, game, 98, seed=1).phi, estimate(name, game, 98, seed=2).phi)


@every
@pytest.mark.parametrize("before", [0, 5, 31])
def test_interrupted_run_ends_as_an_undisturbed_one(name: str, before: int):
    game = TableGame.random(num_images=2, num_players=6, num_classes=2)
    run, resumed = (ESTIMATORS[name](game, game.image, seed=2**63 - 1) for _ in range(2))
    run.advance(before)
    resumed.load_state_dict(load(save(run.state_dict())))
    run.advance(25)
    resumed.advance(25)
    assert_equal(resumed.estimate(), run.estimate())


@every
def test_state_of_another_run_is_refused(name: str):
    game, other = (TableGame.random(num_images=images, num_players=5, num_classes=2) for images in (1, 2))
    state = ESTIMATORS[name](game, game.image).state_dict()
    for stranger in (ESTIMATORS[name](game, game.image, seed=1), ESTIMATORS[name](other, other.image)):
        with pytest.raises(UserError, match="another estimator, seed or game"):
            stranger.load_state_dict(state)


# The run to a budget or a tolerance


@every
@pytest.mark.parametrize("budget", [1, 15, 100, 10**4])
def test_budget_is_kept(name: str, budget: int):
    game = Recorded.random(num_images=2, num_players=7, num_classes=2)
    seen: list[int] = []
    found = shapley_values(game, game.image, name, budget=budget, progress=seen.append)
    assert found.evaluations == sum(asked.shape[1] for asked in game.asked) <= budget
    assert seen == sorted(seen)
    assert seen[-1] == found.evaluations
    assert_equal(found, estimate(name, game, budget), atol=1e-7)


@every
def test_tolerance_stops_as_soon_as_it_is_met(name: str):
    game = UnanimityGame.random(num_images=2, num_players=10, num_classes=2)
    found = shapley_values(game, game.image, name, budget=10**6, tolerance=0.05)
    spread = found.phi.amax(dim=1) - found.phi.amin(dim=1)
    assert (found.stderr.amax(dim=1) <= 0.05 * spread).all()
    if name != "exact":
        assert found.evaluations < 10**4
        earlier = shapley_values(game, game.image, name, budget=found.evaluations // 2)
        spread = earlier.phi.amax(dim=1) - earlier.phi.amin(dim=1)
        assert found.evaluations <= 160 or (earlier.stderr.amax(dim=1) > 0.05 * spread).any()
    with_less = shapley_values(game, game.image, name, budget=10**6, tolerance=0.2)
    assert with_less.evaluations <= found.evaluations


def test_an_error_that_is_no_number_meets_no_tolerance():
    phi = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    unknown = Estimate(phi, torch.full_like(phi, math.nan), 10)
    assert not relative_error(unknown) <= 0.5
    assert relative_error(Estimate(phi, torch.zeros_like(phi), 10)) == 0


@every
def test_run_that_met_its_tolerance_is_not_continued(name: str):
    game = UnanimityGame.random(num_images=2, num_players=8, num_classes=2)
    state: dict[str, Tensor] = {}
    first = shapley_values(game, game.image, name, budget=10**6, tolerance=0.1, state=state)
    again = shapley_values(game, game.image, name, budget=10**6, tolerance=0.1, state=state)
    assert_equal(first, again)
    further = shapley_values(game, game.image, name, budget=10**6, tolerance=0.01, state=state)
    assert_equal(further, shapley_values(game, game.image, name, budget=10**6, tolerance=0.01))


@every
def test_players_that_are_all_the_same_meet_any_tolerance_once_certain(name: str):
    sizes = torch.tensor([float(len(members(number, 7))) for number in range(2**7)], dtype=torch.float64)
    game = TableGame(sizes.square().view(1, -1, 1))
    found = shapley_values(game, game.image, name, budget=2000, tolerance=0.01)
    torch.testing.assert_close(found.phi, torch.full_like(found.phi, 7.0))


@every
def test_run_that_is_broken_off_continues_from_its_state(name: str):
    game = TableGame.random(num_images=2, num_players=7, num_classes=2)
    expected = shapley_values(game, game.image, name, budget=500)
    state: dict[str, Tensor] = {}

    def break_off(evaluations: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shapley_values(game, game.image, name, budget=500, progress=break_off, state=state)
    assert 0 < int(state["counts"][1]) <= 112
    assert_equal(shapley_values(game, game.image, name, budget=500, state=load(save(state))), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"estimator": "kernelshap"}, "estimator=kernelshap: unknown; known: exact, kernel_shap"),
        ({"budget": 0}, "budget=0: must be 1 or more"),
        ({"tolerance": 0.0}, "tolerance=0.0: must be above 0"),
        ({"tolerance": math.nan}, "tolerance=nan: must be above 0"),
    ],
)
def test_impossible_runs_are_refused(changes: dict, message: str):
    game = TableGame.random(num_images=1, num_players=3, num_classes=1)
    with pytest.raises(UserError, match=message):
        shapley_values(game, game.image, **{"budget": 10} | changes)
