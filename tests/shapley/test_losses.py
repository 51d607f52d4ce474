import math
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor

from fastshap_lab.shapley.coalitions import SAMPLERS, all_coalitions
from fastshap_lab.shapley.efficiency import additive_normalization
from fastshap_lab.shapley.losses import (
    additive_residuals,
    bernoulli_kl,
    constant_bernoulli_kl,
    constant_kl,
    efficiency_penalty,
    imitation_error,
    pair_regression_loss,
    reverse_bernoulli_kl,
    reverse_surrogate_kl,
    shapley_regression_loss,
    surrogate_kl,
)
from tests.oracles import TableGame, kernel_weight, members, regression_shapley_values, subset_shapley_values


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_surrogate_kl_matches_other_libraries():
    classifier, surrogate = 3 * randn(2, 4), 3 * randn(2, 5, 4, seed=1)
    divergence = surrogate_kl(classifier, surrogate)
    p = scipy.special.softmax(classifier.numpy(), axis=-1)[:, None]
    q = scipy.special.softmax(surrogate.numpy(), axis=-1)
    torch.testing.assert_close(divergence, torch.from_numpy(scipy.special.rel_entr(p, q).sum(axis=-1)))
    log_q = surrogate[:, 0].log_softmax(dim=-1)
    expected = torch.nn.functional.kl_div(log_q, classifier.softmax(dim=-1), reduction="batchmean")
    torch.testing.assert_close(divergence[:, 0].mean(), expected)


def test_the_reverse_divergence_swaps_the_two():
    classifier, surrogate = 3 * randn(2, 4), 3 * randn(2, 5, 4, seed=1)
    p = scipy.special.softmax(classifier.numpy(), axis=-1)[:, None]
    q = scipy.special.softmax(surrogate.numpy(), axis=-1)
    expected = torch.from_numpy(scipy.special.rel_entr(q, p).sum(axis=-1))
    torch.testing.assert_close(reverse_surrogate_kl(classifier, surrogate), expected)
    certain, wrong = torch.tensor([[1000.0, 0.0]]), torch.tensor([[[1000.0, 0.0], [0.0, 1000.0]]])
    assert reverse_surrogate_kl(certain, wrong).tolist() == [[0.0, 1000.0]]


def test_surrogate_kl_is_zero_for_equal_answers_and_positive_for_others():
    classifier = 3 * randn(2, 4)
    shifted = classifier.unsqueeze(1) + torch.tensor([0.0, 5.0]).view(1, 2, 1)  # a constant changes no probability
    torch.testing.assert_close(surrogate_kl(classifier, shifted), torch.zeros(2, 2, dtype=torch.float64))
    assert (surrogate_kl(classifier, randn(2, 100, 4, seed=1)) > 0).all()


def test_surrogate_kl_of_certain_answers_is_finite():
    classifier, surrogate = torch.tensor([[1000.0, 0.0]]), torch.tensor([[[1000.0, 0.0], [0.0, 1000.0]]])
    assert surrogate_kl(classifier, surrogate).tolist() == [[0.0, 1000.0]]


def test_an_answer_that_is_the_same_for_all_images_misses_what_differs_between_them():
    logits = 2 * randn(6, 3)
    answers = scipy.special.softmax(logits.numpy(), axis=-1)
    mean = answers.mean(axis=0, keepdims=True)
    best = scipy.special.rel_entr(answers, mean).sum(axis=1).mean()
    assert constant_kl(logits).item() == pytest.approx(best)
    nearby = (mean + np.array([[0.02, -0.01, -0.01]]), answers[:1])
    assert all(scipy.special.rel_entr(answers, other).sum(axis=1).mean() > best for other in nearby)
    assert constant_kl(1000 * torch.eye(3)).item() == pytest.approx(math.log(3))  # zeros among the probabilities
    assert constant_kl(logits[:1].expand(4, -1)).item() == pytest.approx(0, abs=1e-12)


def bernoulli_divergence(p_logits: Sequence[float], q_logits: Sequence[float]) -> float:
    """Return KL(p ‖ q), a mean over labels, by the definition."""
    p, q = ([1 / (1 + math.exp(-logit)) for logit in logits] for logits in (p_logits, q_logits))
    terms = [a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b)) for a, b in zip(p, q, strict=True)]
    return math.fsum(terms) / len(terms)


def test_divergences_of_labels_that_do_not_exclude_each_other_are_those_of_bernoullis():
    classifier, surrogate = 3 * randn(2, 4), 3 * randn(2, 5, 4, seed=1)
    for kl, swap in ((bernoulli_kl, False), (reverse_bernoulli_kl, True)):
        expected = [
            [bernoulli_divergence(*((q, p) if swap else (p, q))) for q in of_image]
            for p, of_image in zip(classifier.tolist(), surrogate.tolist(), strict=True)
        ]
        torch.testing.assert_close(kl(classifier, surrogate), torch.tensor(expected, dtype=torch.float64))
    certain, wrong = torch.tensor([[1000.0, 0.0]]), torch.tensor([[[1000.0, 0.0], [-1000.0, 0.0]]])
    assert bernoulli_kl(certain, wrong).tolist() == [[0.0, 500.0]]  # a mean over two labels
    # A constant that softmax would not see is seen.
    assert bernoulli_kl(classifier, classifier.unsqueeze(1) + 1).min() > 0.01


def test_the_best_constant_answer_of_several_labels_is_that_of_each():
    logits = 2 * randn(6, 3)
    mean = scipy.special.logit(scipy.special.expit(logits.numpy()).mean(axis=0)).tolist()
    expected = np.mean([bernoulli_divergence(row, mean) for row in logits.tolist()])
    assert constant_bernoulli_kl(logits).item() == pytest.approx(expected)
    assert constant_bernoulli_kl(torch.tensor([[1000.0], [-1000.0]])).item() == pytest.approx(math.log(2))


def test_the_error_of_a_regressions_surrogate_is_a_mean_over_targets():
    answers, surrogate = torch.tensor([[1.0, 2.0]]), torch.tensor([[[1.0, 2.0], [4.0, 1.0]]])
    assert imitation_error(answers, surrogate).tolist() == [[0.0, 5.0]]


def test_residuals_of_an_additive_game_are_zero():
    phi, null = randn(2, 5, 3), randn(1, 3, seed=1)
    coalitions = all_coalitions(5).expand(2, -1, -1)
    values = torch.stack(
        [torch.stack([null[0] + image[members(number, 5)].sum(dim=0) for number in range(32)]) for image in phi]
    )
    torch.testing.assert_close(additive_residuals(phi, coalitions, values, null), torch.zeros_like(values))
    # A value above what its members add up to leaves a positive residual.
    torch.testing.assert_close(additive_residuals(phi, coalitions, values + 1, null), torch.ones_like(values))


@pytest.mark.parametrize("null_rows", [1, 2])
def test_regression_loss_is_players_times_the_weighted_mean_square(null_rows: int):
    phi, values, null, weights = randn(2, 4, 3), randn(2, 6, 3, seed=1), randn(null_rows, 3, seed=2), randn(2, 6).abs()
    coalitions = randn(2, 6, 4, seed=3) > 0
    total = 0.0
    for image in range(2):
        for coalition in range(6):
            for target in range(3):
                sum_of_members = sum(float(phi[image, i, target]) for i in range(4) if coalitions[image, coalition, i])
                predicted = float(null[image % null_rows, target]) + sum_of_members
                total += float(weights[image, coalition] * (values[image, coalition, target] - predicted) ** 2)
    loss = shapley_regression_loss(phi, coalitions, values, null, weights)
    assert float(loss) == pytest.approx(4 * total / (2 * 6 * 3))


def test_efficient_values_minimize_the_regression_loss_at_the_shapley_values():
    game = TableGame.random(num_images=2, num_players=5, num_classes=3)
    exact = subset_shapley_values(game.table)
    torch.testing.assert_close(exact, regression_shapley_values(game.table))
    coalitions = all_coalitions(5, 1, 31).expand(2, -1, -1)
    kernel = [kernel_weight(5, len(members(number, 5))) for number in range(1, 31)]
    weights = torch.tensor(kernel, dtype=torch.float64).expand(2, -1)

    def loss(phi: Tensor) -> Tensor:
        return shapley_regression_loss(phi, coalitions, game.table[:, 1:31], game.table[:, 0], weights)

    phi = exact.clone().requires_grad_()
    loss(phi).backward()
    along_efficient = phi.grad - phi.grad.mean(dim=1, keepdim=True)
    assert along_efficient.abs().max() < 1e-12
    for seed in range(5):
        noise = 0.01 * randn(2, 5, 3, seed=seed)
        assert loss(exact + noise - noise.mean(dim=1, keepdim=True)) > loss(exact)


@pytest.mark.parametrize("name", SAMPLERS)
def test_gradient_over_draws_is_that_of_the_loss_over_all_coalitions(name: str):
    num_draws, num_images, num_coalitions, num_players, num_classes = 1000, 3, 4, 5, 2
    game = TableGame.random(num_images, num_players, num_classes)
    start = randn(num_images, num_players, num_classes, seed=1)

    expected = torch.zeros_like(start)
    weights = [kernel_weight(num_players, len(members(number, num_players))) for number in range(1, 31)]
    for image in range(num_images):
        for number, weight in zip(range(1, 31), weights, strict=True):
            inside = members(number, num_players)
            residual = game.table[image, number] - game.table[image, 0] - start[image, inside].sum(dim=0)
            slope = -2 * num_players * residual / (num_images * num_classes)
            expected[image, inside] += weight / sum(weights) * slope

    # Images and coalitions of one draw hang together, draws do not.
    sampler, generator = SAMPLERS[name](num_players), torch.Generator().manual_seed(0)
    draws = [sampler(num_images, num_coalitions, generator, torch.device("cpu")) for _ in range(num_draws)]
    coalitions, weights = (torch.cat(part) for part in zip(*draws, strict=True))
    values, _, null = game(game.image.repeat(num_draws, 1, 1, 1), coalitions)
    phi = start.repeat(num_draws, 1, 1).requires_grad_()
    (num_draws * shapley_regression_loss(phi, coalitions, values, null, weights)).backward()
    gradient = phi.grad.unflatten(0, (num_draws, num_images))
    error = (gradient.mean(dim=0) - expected) / (gradient.std(dim=0) / math.sqrt(num_draws))
    assert error.abs().max() < 4.5


def test_efficiency_penalty_is_players_times_the_mean_squared_gap():
    raw = torch.tensor([[[1.0, 1.0], [2.0, 5.0]], [[0.0, 0.0], [0.0, 4.0]]])
    grand, null = torch.tensor([[5.0, 5.0], [1.0, 5.0]]), torch.tensor([[1.0, 1.0]])  # gaps 1, -2, 0, 0
    assert float(efficiency_penalty(raw, grand, null)) == 2 * (1 + 4) / 4


def test_pairs_hold_all_of_the_loss_that_efficient_values_can_change():
    game = TableGame.random(3, 6, 2)
    grand, null = game.grand(game.image), game.null(game.image)
    one = torch.rand(3, 5, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    weights = torch.rand(3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    both, values = torch.cat([one, ~one], dim=1), game.values(game.image, torch.cat([one, ~one], dim=1))
    differences = values[:, :5] - values[:, 5:]

    def rest(seed: int) -> torch.Tensor:
        raw = torch.randn(3, 6, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        phi = additive_normalization(raw, grand, null)
        whole = shapley_regression_loss(phi, both, values, null, torch.cat([weights, weights], dim=1))
        return whole - pair_regression_loss(phi, one, differences, weights)

    torch.testing.assert_close(rest(0), rest(1))
