"""The regression on pairs: against the closed form, its standard errors, and the prior that gives way."""

import math

import numpy as np
import pytest
import torch

from fastshap_lab.shapley import KernelSHAP, PairRegression, equal_split, exact_shapley_values, pair_design
from fastshap_lab.shapley.estimators import LeverageSHAP
from tests.oracles import TableGame

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
