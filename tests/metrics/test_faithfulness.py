import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from fastshap_lab.metrics import FaithfulnessCorrelation, SensitivityN, coalition_values, sensitivity_coalitions
from fastshap_lab.metrics.faithfulness import coalition_sums
from tests.oracles import TableGame

GAME = TableGame.random(num_images=3, num_players=6, num_classes=4)
CLASSES = torch.tensor([[0, 2, 3], [3, 1, 0], [1, 0, 2]])
PHI = torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
COALITIONS = sensitivity_coalitions(6, number=40, seed=2)
VALUES = coalition_values(GAME.values, GAME.image, COALITIONS)


def number_of(players: list[int]) -> int:
    return sum(2**player for player in players)


def test_sensitivity_is_the_rank_correlation_of_sums_and_values():
    metric = SensitivityN()
    metric.update(PHI, COALITIONS, VALUES, CLASSES)
    for image in range(3):
        expected = []
        for place, k in enumerate(CLASSES[image].tolist()):
            sums, values = [], []
            for coalition in COALITIONS[0]:
                players = coalition.nonzero().flatten().tolist()
                sums.append(sum(float(PHI[image, player, place]) for player in players))
                values.append(float(GAME.table[image, number_of(players), k]))
            expected.append(spearmanr(np.round(sums, 12), values).statistic)
        assert metric.per_image()["target"][image].item() == pytest.approx(expected[0])
        assert metric.per_image()["others"][image].item() == pytest.approx(np.mean(expected[1:]))


def test_faithfulness_correlates_what_is_removed_with_the_drop():
    kept = sensitivity_coalitions(6, number=30, size=4, seed=3)  # two players are removed
    metric = FaithfulnessCorrelation()
    metric.update(PHI[:, :, :1], kept, coalition_values(GAME.values, GAME.image, kept), CLASSES[:, :1])
    assert metric.compute().keys() == {"target"}
    for image in range(3):
        sums, drops, k = [], [], int(CLASSES[image, 0])
        for coalition in kept[0]:
            removed, rest = ((~coalition).nonzero().flatten().tolist(), coalition.nonzero().flatten().tolist())
            assert len(removed) == 2
            sums.append(sum(float(PHI[image, player, 0]) for player in removed))
            drops.append(float(GAME.table[image, -1, k] - GAME.table[image, number_of(rest), k]))
        assert metric.per_image()["target"][image].item() == pytest.approx(pearsonr(sums, drops).statistic)


@pytest.mark.parametrize("metric", [SensitivityN, FaithfulnessCorrelation])
def test_an_additive_game_is_explained_perfectly_by_its_weights(metric):
    values = 3 + COALITIONS.double() @ PHI
    first = torch.arange(3).expand(3, -1)
    right, wrong = metric(), metric()
    right.update(PHI, COALITIONS, values, first)
    wrong.update(-PHI, COALITIONS, values, first)
    assert right.compute() == pytest.approx({"target": 1, "others": 1}, abs=1e-3)
    assert wrong.compute() == pytest.approx({"target": -1, "others": -1}, abs=1e-3)


def test_random_attributions_are_not_correlated_on_average():
    generator, metric = torch.Generator().manual_seed(0), SensitivityN()
    coalitions = sensitivity_coalitions(6, number=50, size=3)
    values = coalition_values(GAME.values, GAME.image, coalitions)
    for _ in range(100):
        metric.update(torch.randn(3, 6, 1, generator=generator), coalitions, values, CLASSES[:, :1])
    assert abs(metric.compute()["target"]) < 0.08


@pytest.mark.parametrize("metric", [SensitivityN, FaithfulnessCorrelation])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constants_are_undefined_and_counted(metric, dtype):
    phi, values = PHI[:, :, :1].to(dtype, copy=True), VALUES.to(dtype, copy=True)
    measured, same_size = metric(), sensitivity_coalitions(6, number=40, size=3)
    phi[0] = 0.1  # every coalition of three has the same sum, whatever the order of addition
    values[1] = 0.1
    measured.update(phi, same_size, values, CLASSES[:, :1])
    assert measured.per_image()["target"].isnan().tolist() == [True, True, False]
    assert measured.nan_count() == {"target": 2}
    assert measured.compute()["target"] == pytest.approx(measured.per_image()["target"][2].item())


def test_equal_attributions_of_196_players_have_exactly_equal_sums():
    sums = coalition_sums(torch.full((1, 196, 1), 0.1), sensitivity_coalitions(196, number=100, size=14))
    assert sums.unique().numel() == 1
    assert sums[0, 0, 0].item() == pytest.approx(1.4)


def test_coalitions_have_the_size_asked_for_and_repeat():
    assert sensitivity_coalitions(10, 200, size=7).sum(dim=2).unique().tolist() == [7]
    sizes = sensitivity_coalitions(3, 4000).sum(dim=2).flatten().bincount(minlength=4) / 4000
    torch.testing.assert_close(sizes, torch.full((4,), 0.25), rtol=0, atol=0.03)
    assert torch.equal(sensitivity_coalitions(6, seed=5), sensitivity_coalitions(6, seed=5))
    assert not torch.equal(sensitivity_coalitions(6, seed=5), sensitivity_coalitions(6, seed=6))


@pytest.mark.parametrize("max_batch", [1, 7, 40, 90, 1000])
def test_values_are_the_same_in_any_chunks(max_batch):
    assert torch.equal(coalition_values(GAME.values, GAME.image, COALITIONS, max_batch), VALUES)
