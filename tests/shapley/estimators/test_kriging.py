"""Kriging: against dense matrices over all coefficients, on games drawn from its prior, and on simple games."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from torch import Tensor

from fastshap_lab.errors import UserError
from fastshap_lab.shapley import all_coalitions, equal_split, pair_design, shapley_values
from fastshap_lab.shapley.estimators import KernelSHAP, Kriging, PairKriging, kriging
from fastshap_lab.shapley.estimators.kriging import ADDITIVITIES, INTERACTIONS, mean_products, order_variances
from tests.oracles import TableGame, UnanimityGame, subset_shapley_values

PLAYERS = 6


def odd_sets(num_players: int) -> list[tuple[int, ...]]:
    return [u for size in range(1, num_players + 1, 2) for u in itertools.combinations(range(num_players), size)]


def coefficient_variances(num_players: int, interaction: float, additivity: float) -> np.ndarray:
    """Variances of the c_U, from the definition: q^|U| from size 3 on, which make 1 together, and tau for singles."""
    sets = odd_sets(num_players)
    raw = np.array([interaction ** len(u) if len(u) > 1 else 0.0 for u in sets])
    single = np.array([additivity / num_players if len(u) == 1 else 0.0 for u in sets])
    return raw / max(raw.sum(), 1e-300) + single


def drawn_game(num_players: int, interaction: float, additivity: float, classes: int, seed: int) -> TableGame:
    """A game whose odd part is drawn from the prior, and whose even part is noise, which does not matter."""
    generator, sets = np.random.default_rng(seed), odd_sets(num_players)
    signs = 2 * all_coalitions(num_players).numpy() - 1
    products = np.stack([signs[:, list(u)].prod(axis=1) for u in sets], axis=1)
    deviation = np.sqrt(coefficient_variances(num_players, interaction, additivity))
    odd = products @ (deviation[:, None] * generator.standard_normal((len(sets), classes)))
    even = generator.standard_normal((len(signs), classes))
    return TableGame(torch.from_numpy(odd + even + even[::-1]).unsqueeze(0))


def by_hand(
    coalitions: Tensor, differences: Tensor, total: Tensor, answer: Tensor | None = None, error: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return values and standard errors of one image and class from dense matrices over all odd coefficients."""
    num_players, sets = coalitions.shape[1], odd_sets(coalitions.shape[1])
    signs = np.vstack([2 * coalitions.numpy() - 1, np.ones(num_players)])
    products = np.stack([signs[:, list(u)].prod(axis=1) for u in sets], axis=1)  # (rows, sets)
    shares = np.stack([[2 / len(u) * (i in u) for u in sets] for i in range(num_players)])  # (P, sets): phi = shares c
    split = np.full(num_players, float(total) / num_players)
    sizes = signs.mean(axis=1)
    by_size = 0.3 * np.array([[np.exp(-abs(u - v)) - np.exp(-abs(u + v)) for v in sizes] for u in sizes])
    # A game of sizes alone pays what it pays everybody, twice its odd part, in equal shares.
    everybody = np.full((num_players, 1), 2 / num_players)
    odd = np.append(differences.numpy(), float(total)) / 2 - signs @ split / 2
    evidence, means, covariances = [], [], []
    for interaction, additivity in itertools.product(INTERACTIONS, ADDITIVITIES):
        prior = np.diag(coefficient_variances(num_players, interaction, additivity))
        covariance = products @ prior @ products.T + by_size + 1e-8 * np.eye(len(odd))
        crossed = shares @ prior @ products.T + everybody @ by_size[-1:]
        scale = odd @ np.linalg.solve(covariance, odd) / len(odd)
        mean = split + crossed @ np.linalg.solve(covariance, odd)
        unknown = shares @ prior @ shares.T + by_size[-1, -1] * everybody @ everybody.T
        left = scale * (unknown - crossed @ np.linalg.solve(covariance, crossed.T))
        likely = -len(odd) / 2 * np.log(scale) - np.linalg.slogdet(covariance)[1] / 2
        if answer is not None:
            given = answer.numpy()
            spread = max(np.mean((given - split) ** 2), np.mean((mean - split) ** 2 + np.diag(left)))
            joint = left + error * spread * np.eye(num_players)
            likely -= (given - mean) @ np.linalg.solve(joint, given - mean) / 2 + np.linalg.slogdet(joint)[1] / 2
            mean = mean + left @ np.linalg.solve(joint, given - mean)
            left = left - left @ np.linalg.solve(joint, left)
        evidence.append(likely)
        means.append(mean)
        covariances.append(left)
    weights = np.exp(np.array(evidence) - logsumexp(evidence))[:, None]
    mean = (weights * means).sum(axis=0)
    variance = (weights * (np.array([np.diag(one) for one in covariances]) + (means - mean) ** 2)).sum(axis=0)
    return mean, np.sqrt(variance)


@pytest.fixture(scope="module")
def evidence() -> tuple[Tensor, Tensor, Tensor]:
    """Coalitions, differences and totals of two images and three classes of a random game."""
    game, design = TableGame.random(2, PLAYERS, 3, seed=4), pair_design(PLAYERS, 11, "kernel", seed=1)
    values = game.values(game.image, torch.cat([design.coalitions, ~design.coalitions]).expand(2, -1, -1))
    return design.coalitions, values[:, :11] - values[:, 11:], game.grand(game.image) - game.null(game.image)


def test_the_posterior_is_that_of_dense_matrices(evidence):
    coalitions, differences, total = evidence
    phi, stderr = PairKriging(coalitions).fit(differences, total)
    for image, k in itertools.product(range(2), range(3)):
        mean, error = by_hand(coalitions, differences[image, :, k], total[image, k])
        np.testing.assert_allclose(phi[image, :, k], mean, atol=1e-6)
        np.testing.assert_allclose(stderr[image, :, k], error, atol=1e-6)


@pytest.mark.parametrize("error", [0.01, 0.5])
def test_an_answer_is_further_evidence_with_an_error_of_its_own(evidence, error):
    coalitions, differences, total = evidence
    answer = torch.randn(2, PLAYERS, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answer = answer + ((total - answer.sum(dim=1)) / PLAYERS).unsqueeze(1)
    first, second = PairKriging(coalitions).fit_with(differences, total, answer, [error, 0.2])
    for image, k in itertools.product(range(2), range(3)):
        mean, deviation = by_hand(coalitions, differences[image, :, k], total[image, k], answer[image, :, k], error)
        np.testing.assert_allclose(first[0][image, :, k], mean, atol=1e-6)
        np.testing.assert_allclose(first[1][image, :, k], deviation, atol=1e-6)
    assert not torch.allclose(first[0], second[0])


@pytest.mark.parametrize("num_players", [1, 2, 3, 7, 12])
def test_mean_products_are_means_over_all_sets(num_players):
    found = mean_products(num_players)
    for size, distance in itertools.product(range(num_players + 1), repeat=2):
        signs = np.array([-1.0] * distance + [1.0] * (num_players - distance))
        products = [signs[list(u)].prod() for u in itertools.combinations(range(num_players), size)]
        assert float(found[size, distance]) == pytest.approx(np.mean(products), abs=1e-12)


@pytest.mark.parametrize("num_players", [256, 1024])
def test_large_games_keep_their_digits(num_players):
    table = mean_products(num_players)
    assert table.abs().max() <= 1 + 1e-9
    torch.testing.assert_close(table, table.T, rtol=0, atol=1e-9)  # which the recurrence does not know
    for interaction in INTERACTIONS:
        assert float(order_variances(num_players, interaction).sum()) == pytest.approx(1)
    game = UnanimityGame.random(num_images=1, num_players=num_players, num_classes=2)
    found = shapley_values(game, game.image, "kriging", budget=512)
    assert found.stderr.isfinite().all()
    torch.testing.assert_close(found.phi.sum(dim=1), game.grand(game.image), rtol=0, atol=1e-8)
    assert (found.phi - game.phi).square().mean() < 0.95 * game.phi.var(dim=1).mean()


def test_renaming_players_renames_their_values(evidence):
    coalitions, differences, total = evidence
    order = torch.tensor([3, 0, 5, 1, 2, 4])
    renamed, given = PairKriging(coalitions[:, order]), PairKriging(coalitions)
    for one, other in zip(renamed.fit(differences, total), given.fit(differences, total), strict=True):
        torch.testing.assert_close(one, other[:, order], rtol=0, atol=1e-7)


@pytest.mark.parametrize("interaction", [0.05, 0.45])
def test_games_of_the_prior_are_met_with_errors_that_hold(interaction):
    inside, better = [], []
    for seed in range(20):
        game = drawn_game(8, interaction, additivity=3.0, classes=6, seed=seed)
        exact = subset_shapley_values(game.table)
        found, alone = (shapley_values(game, game.image, name, budget=90) for name in ("kriging", "kernel_shap"))
        inside.append(((found.phi - exact).abs() <= 1.96 * found.stderr).double().mean())
        better.append(float((found.phi - exact).square().mean() / (alone.phi - exact).square().mean()))
    assert 0.90 < np.mean(inside) < 0.98
    assert np.mean(better) < 0.9


def test_a_triple_is_shared_by_its_members():
    """Of x_0 x_1 x_2 alone, each member's value is 2/3; half of the pairs tell."""
    signs = 2 * all_coalitions(8).double() - 1
    game = TableGame(signs[:, :3].prod(dim=1).view(1, -1, 1))
    found = shapley_values(game, game.image, "kriging", budget=128)
    expected = torch.tensor([2 / 3] * 3 + [0.0] * 5, dtype=torch.float64)
    torch.testing.assert_close(found.phi[0, :, 0], expected, rtol=0, atol=0.1)
    kernel = shapley_values(game, game.image, "kernel_shap", budget=128)
    assert (found.phi[0, :, 0] - expected).norm() < 0.5 * (kernel.phi[0, :, 0] - expected).norm()


def test_additive_games_need_little_more_than_their_players():
    weights = torch.randn(1, 20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    game = UnanimityGame(torch.eye(20).bool(), weights)
    for budget, share in ((60, 1e-2), (200, 5e-4)):
        found = shapley_values(game, game.image, "kriging", budget=budget)
        assert (found.phi - game.phi).square().mean() < share * game.phi.var()


def test_nearly_all_pairs_give_nearly_exact_values():
    """The nugget is what is left of the highest orders: it must not be seen."""
    game = TableGame.random(num_images=1, num_players=9, num_classes=3)
    found = shapley_values(game, game.image, "kriging", budget=508)
    exact = subset_shapley_values(game.table)
    assert (found.phi - exact).square().mean() < 1e-2 * exact.var()
    assert ((found.phi - exact).abs() <= 4 * found.stderr + 1e-3).all()


def test_the_equal_split_is_what_is_known_without_evidence():
    game = TableGame.random(1, 8, 2)
    found = Kriging(game, game.image).estimate()
    torch.testing.assert_close(found.phi, equal_split(game.grand(game.image), game.null(game.image), 8))
    assert found.stderr.isinf().all()


def test_an_answer_helps_where_evidence_is_thin_and_does_no_harm_where_it_is_not():
    game = UnanimityGame.random(3, 40, 2)
    noise = torch.randn(game.phi.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    answer = game.phi + 0.1 * noise
    relative = float(0.01 / (answer - answer.mean(dim=1, keepdim=True)).square().mean())
    estimator = Kriging(game, game.image)
    for budget in (60, 200, 800):
        estimator.advance(budget - estimator.granted)
        refined, alone = estimator.refine(answer, [relative])[0], estimator.estimate()
        errors = [float((phi - game.phi).square().mean()) for phi in (refined.phi, answer, alone.phi)]
        assert errors[0] < 1.02 * min(errors[1:])
        assert ((refined.phi - game.phi).abs() <= 1.96 * refined.stderr).double().mean() > 0.88


def test_answers_give_way_to_exact_values():
    game = TableGame.random(2, 7, 3)
    exact = subset_shapley_values(game.table)
    answer = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimator, errors = Kriging(game, game.image), []
    for budget in (2, 30, 90, 126):
        estimator.advance(budget - estimator.granted)
        (estimate,) = estimator.refine(answer, [1.0])
        torch.testing.assert_close(estimate.phi.sum(dim=1), game.grand(game.image) - game.null(game.image))
        errors.append(float((estimate.phi - exact).square().mean()))
    assert errors == sorted(errors, reverse=True)
    torch.testing.assert_close(estimate.phi, exact, rtol=0, atol=1e-10)
    assert not estimate.stderr.any()


def test_too_many_pairs_are_refused_before_the_first_is_evaluated():
    game = UnanimityGame.random(1, 24, 1)
    with pytest.raises(UserError, match="budget=20000: kriging can use at most 16,384 evaluations of 24 players"):
        shapley_values(game, game.image, "kriging", budget=20000)
    assert math.isinf(float(Kriging(game, game.image).estimate().stderr.max()))
    KernelSHAP.check_budget(24, 20000)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1])
def test_a_flat_answer_does_not_overrule_evidence(share):
    game = UnanimityGame.random(2, 20, 3)
    estimator = Kriging(game, game.image)
    estimator.advance(400)
    alone = estimator.estimate()
    split = equal_split(game.grand(game.image), game.null(game.image), 20)
    (refined,) = estimator.refine(split + share * (game.phi - split), [0.3])
    assert (refined.phi - game.phi).square().mean() < 1.5 * (alone.phi - game.phi).square().mean()
    assert ((refined.phi - game.phi).abs() <= 4 * refined.stderr).double().mean() > 0.95


def test_looks_at_a_tolerance_pass_over_what_cannot_be_factorized(monkeypatch):
    monkeypatch.setattr(kriging, "MAX_PAIRS", 64)
    game = TableGame.random(1, 10, 2)
    found = shapley_values(game, game.image, "kriging", budget=1022, tolerance=1e-9)
    torch.testing.assert_close(found.phi, subset_shapley_values(game.table), rtol=0, atol=1e-9)
