"""The regression on pairs: against the closed form, its standard errors, and the prior that gives way."""

import math

import numpy as np
import pytest
import torch

from fastshap_lab.shapley import KernelSHAP, PairRegression, equal_split, exact_shapley_values, pair_design
from fastshap_lab.shapley.estimators import LeverageSHAP
from tests.oracles import TableGame, UnanimityGame, subset_shapley_values

KINDS = [KernelSHAP, LeverageSHAP]


def constrained(coalitions: np.ndarray, weights: np.ndarray, values: np.ndarray, total: float) -> np.ndarray:
    """Solve for efficient phi by the closed form of arXiv:2012.01536, section 3; ``values`` are beyond the null's."""
    a = (weights[:, None, None] * coalitions[:, :, None] * coalitions[:, None, :]).sum(axis=0)
    b = (weights[:, None] * coalitions * values[:, None]).sum(axis=0)
    one, inverse = np.ones(coalitions.shape[1]), np.linalg.inv(a)
    return inverse @ (b - one * (one @ inverse @ b - total) / (one @ inverse @ one))


@pytest.mark.parametrize("pairs", [9, 20, 60])
def test_a_fit_to_pairs_is_the_fit_to_their_coalitions(pairs):
    game = TableGame.random(1, 7, 1, seed=3)
    design = pair_design(7, pairs, "kernel", seed=0)
    both = torch.cat([design.coalitions, ~design.coalitions])
    values = game.values(game.image, both.unsqueeze(0))
    total = (game.grand(game.image) - game.null(game.image)).item()
    weights = design.weights.repeat(2).numpy()
    expected = constrained(both.double().numpy(), weights, (values[0, :, 0] - game.table[0, 0, 0]).numpy(), total)
    in_favour, against = values.chunk(2, dim=1)
    prior = equal_split(game.grand(game.image), game.null(game.image), 7)
    phi, residuals = PairRegression(design).fit(in_favour - against, prior)
    torch.testing.assert_close(phi[0, :, 0], torch.from_numpy(expected))
    torch.testing.assert_close(residuals, in_favour - against - (2 * design.coalitions.double() - 1) @ phi)


@pytest.mark.parametrize("ridge", [0.5, 30.0])
def test_a_ridge_minimizes_what_it_says(ridge):
    game, design = TableGame.random(2, 6, 3, seed=1), pair_design(6, 11, "kernel", seed=0)
    values = game.values(game.image, torch.cat([design.coalitions, ~design.coalitions]).expand(2, -1, -1))
    differences = values[:, :11] - values[:, 11:]
    prior = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    phi, _ = PairRegression(design, ridge).fit(differences, prior)

    def objective(candidate: torch.Tensor) -> torch.Tensor:
        left = differences - (2 * design.coalitions.double() - 1) @ candidate
        weights = design.weights / design.weights.mean()
        return (weights.unsqueeze(1) * left.square()).sum() + ridge * (candidate - prior).square().sum()

    torch.testing.assert_close(phi.sum(dim=1), prior.sum(dim=1))
    found = phi.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(found), found)
    # At the minimum under the constraint the gradient is the same for all players.
    assert (gradient - gradient.mean(dim=1, keepdim=True)).abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_before_there_are_directions_enough_nothing_is_claimed(kind):
    game = TableGame.random(1, 8, 2)
    estimator = kind(game, game.image)
    estimator.advance(8)
    estimate = estimator.estimate()
    assert estimate.stderr.isinf().all()
    torch.testing.assert_close(estimate.phi, equal_split(game.grand(game.image), game.null(game.image), 8))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [64, 256, 700])
def test_intervals_hold_what_they_promise(kind, budget):
    inside, errors, claimed = [], [], []
    for seed in range(60):
        game = TableGame.random(1, 10, 2, seed=seed % 6)
        estimator = kind(game, game.image, seed=seed)
        estimator.advance(budget)
        estimate = estimator.estimate()
        error = estimate.phi - exact_shapley_values(game, game.image)
        inside.append((error.abs() <= 1.96 * estimate.stderr).double().mean())
        errors.append(error.square().mean())
        claimed.append(estimate.stderr.square().mean())
    assert 0.91 < np.mean(inside) < 0.985
    assert 0.8 < math.sqrt(np.mean(claimed) / np.mean(errors)) < 1.4


def test_the_prior_gives_way_to_the_exact_values():
    game = TableGame.random(2, 7, 3)
    exact = subset_shapley_values(game.table)
    prior = torch.randn(exact.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    estimator, errors = KernelSHAP(game, game.image), []
    for budget in (2, 30, 90, 126):
        estimator.advance(budget - estimator.granted)
        estimate = estimator.refine(prior, ridge=20.0)
        torch.testing.assert_close(estimate.phi.sum(dim=1), game.grand(game.image) - game.null(game.image))
        errors.append(float((estimate.phi - exact).square().mean()))
    assert errors == sorted(errors, reverse=True)
    torch.testing.assert_close(estimate.phi, exact, rtol=1e-7, atol=1e-7)
    assert estimate.stderr.max() < 1e-7


def test_a_prior_that_knows_helps_where_evidence_is_thin():
    game = UnanimityGame.random(3, 40, 2)
    prior = game.phi + 0.1 * torch.randn(
        game.phi.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    estimator = KernelSHAP(game, game.image)
    estimator.advance(200)
    refined, alone = estimator.refine(prior, ridge=2000.0).phi, estimator.estimate().phi
    of = [float((phi - game.phi).square().mean()) for phi in (refined, prior, alone)]
    assert of[0] < min(of[1:])
