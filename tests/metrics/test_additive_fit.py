import numpy as np
import pytest
import torch
from torch import Tensor

from fastshap_lab.metrics import AdditiveFit
from fastshap_lab.shapley import ShapleyKernelSampler, additive_normalization, equal_split, exact_shapley_values
from tests.oracles import TableGame

GAME = TableGame.random(num_images=4, num_players=5, num_classes=3)
COALITIONS, _ = ShapleyKernelSampler(5)(4, 6, torch.Generator().manual_seed(0), torch.device("cpu"))
VALUES, GRAND, NULL = GAME(GAME.image, COALITIONS)
PHI = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def fit(phi: Tensor, values: Tensor = VALUES, parts: int = 1) -> float:
    metric = AdditiveFit()
    for rows in torch.arange(4).tensor_split(parts):
        metric.update(phi[rows], COALITIONS[rows], values[rows], GRAND[rows], NULL[rows])
    return metric.compute().item()


def test_the_fit_compares_what_pairs_of_complements_differ_by():
    residual = equal_residual = 0.0
    for image in range(4):
        for pair in range(0, 6, 2):
            assert torch.equal(COALITIONS[image, pair], ~COALITIONS[image, pair + 1])
            for k in range(3):
                share = float(GRAND[image, k] - NULL[image, k]) / 5
                predicted = split = 0.0
                for player in range(5):
                    sign = 1 if COALITIONS[image, pair, player] else -1
                    predicted += sign * float(PHI[image, player, k])
                    split += sign * share
                difference = float(VALUES[image, pair, k] - VALUES[image, pair + 1, k])
                residual += (difference - predicted) ** 2
                equal_residual += (difference - split) ** 2
    assert fit(PHI) == pytest.approx(1 - residual / equal_residual, rel=1e-5)


def test_the_equal_split_is_zero_and_an_additive_game_is_fit_entirely():
    assert fit(equal_split(GRAND, NULL, 5)) == pytest.approx(0, abs=1e-6)
    phi = additive_normalization(PHI, GRAND, NULL)
    values = NULL.unsqueeze(1) + COALITIONS.double() @ phi
    assert fit(phi, values) == pytest.approx(1, abs=1e-6)


def test_shapley_values_fit_better_than_others():
    exact = exact_shapley_values(GAME, GAME.image)
    noisy = additive_normalization(exact + 0.3 * PHI, GRAND, NULL)
    everything = torch.tensor([[bool(number >> i & 1) for i in range(5)] for number in range(32)])
    # Pairs in proportion to the kernel: one of sizes 1 and 4 is three times as likely as one of sizes 2 and 3.
    ones, twos = (everything[everything.sum(dim=1) == size] for size in (1, 2))
    drawn = torch.cat([ones.repeat(3, 1), twos])
    coalitions = torch.stack([drawn, ~drawn], dim=1).flatten(0, 1).expand(4, -1, -1)
    values = GAME.values(GAME.image, coalitions)

    def fit_of(phi: Tensor) -> float:
        metric = AdditiveFit()
        metric.update(phi, coalitions, values, GRAND, NULL)
        return metric.compute().item()

    assert 0 < fit_of(exact) < 1
    assert fit_of(exact) > fit_of(noisy)
    shifts = [additive_normalization(exact + 1e-3 * torch.eye(5)[i].view(1, 5, 1), GRAND, NULL) for i in range(5)]
    assert all(fit_of(shifted) <= fit_of(exact) + np.finfo(np.float32).eps for shifted in shifts)


@pytest.mark.parametrize("parts", [2, 4])
def test_how_batches_are_split_does_not_matter(parts):
    assert fit(PHI, parts=parts) == pytest.approx(fit(PHI), rel=1e-6)
