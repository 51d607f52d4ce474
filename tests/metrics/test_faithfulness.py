import numpy as np
import pytest
import torch
from captum.metrics import infidelity
from scipy.stats import pearsonr, spearmanr

from fastshap_lab.metrics import (
    FaithfulnessCorrelation,
    Infidelity,
    SensitivityN,
    coalition_values,
    sensitivity_coalitions,
)
from fastshap_lab.metrics.faithfulness import coalition_sums
from fastshap_lab.models import ModelGame
from fastshap_lab.models.maskings import Constant
from fastshap_lab.shapley import Players, Segments
from tests import small
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


def infidelities(phi, values=VALUES, grand=GAME.table[:, -1], classes=CLASSES):
    metric = Infidelity()
    metric.update(phi, COALITIONS, values, grand, classes)
    return metric


def test_infidelity_is_the_squared_error_of_what_removal_costs():
    measured = infidelities(PHI).per_image()
    for image in range(3):
        plain, scaled = [], []
        for place, k in enumerate(CLASSES[image].tolist()):
            sums, drops = [], []
            for coalition in COALITIONS[0]:
                present, absent = (part.nonzero().flatten().tolist() for part in (coalition, ~coalition))
                sums.append(sum(float(PHI[image, player, place]) for player in absent))
                drops.append(float(GAME.table[image, -1, k] - GAME.table[image, number_of(present), k]))
            plain.append(np.mean(np.subtract(sums, drops) ** 2))
            scaled.append(np.linalg.lstsq(np.array(sums)[:, None], drops)[1][0] / len(drops))  # the best factor's
        assert measured["target"][image].item() == pytest.approx(plain[0])
        assert measured["target_scaled"][image].item() == pytest.approx(scaled[0])
        assert measured["others"][image].item() == pytest.approx(np.mean(plain[1:]))
        assert measured["others_scaled"][image].item() == pytest.approx(np.mean(scaled[1:]))


@pytest.mark.parametrize(("normalize", "column"), [(False, "target"), (True, "target_scaled")])
def test_infidelity_is_captums_for_the_same_removals(normalize, column):
    def forward(rows):  # players, and the image's number
        present = rows[:, :-1] > 0.5
        image = rows[:, -1].view(-1, 1, 1, 1)
        return GAME.values(image, present.unsqueeze(1))[torch.arange(len(rows)), 0, CLASSES[image.flatten().long(), 0]]

    def perturb(rows):  # captum repeats each image as many times as there are coalitions
        removed = torch.cat([~COALITIONS[0], torch.zeros(40, 1, dtype=torch.bool)], dim=1).double().repeat(3, 1)
        return removed, rows - removed

    image = torch.arange(3, dtype=torch.float64).unsqueeze(1)
    whole, phi = torch.cat([torch.ones(3, 6), image], dim=1), torch.cat([PHI[:, :, 0], torch.zeros(3, 1)], dim=1)
    expected = infidelity(forward, perturb, whole, phi, n_perturb_samples=40, normalize=normalize)
    torch.testing.assert_close(infidelities(PHI).per_image()[column], expected)


def test_infidelity_of_perfect_attributions_of_none_and_of_scaled_ones():
    values, first = 3 + COALITIONS.double() @ PHI, torch.arange(3).expand(3, -1)
    grand = 3 + PHI.sum(dim=1)
    assert infidelities(PHI, values, grand, first).compute() == pytest.approx(dict.fromkeys(Infidelity.columns, 0))
    tenfold = infidelities(-10 * PHI, values, grand, first).compute()
    assert tenfold["target_scaled"] == pytest.approx(0)
    nothing = infidelities(torch.zeros_like(PHI), values, grand, first).compute()
    mean_square = (grand.unsqueeze(1) - values).square().mean(dim=1)[:, 0].mean().item()
    assert nothing["target"] == nothing["target_scaled"] == pytest.approx(mean_square)
    assert tenfold["target"] == pytest.approx(121 * mean_square)
    assert np.isnan(infidelities(torch.full_like(PHI, torch.nan), values, grand, first).compute()["target_scaled"])


@pytest.mark.parametrize(
    "players",
    [Segments(small.label_map(5, (4, 6))), Segments.grid((4, 6), (3, 4))],
    ids=["segments", "a grid that does not divide the image"],
)
def test_what_segments_of_a_linear_model_add_explains_it_perfectly(players: Players):
    image = (8 * small.images(2, (4, 6))).round().double()  # whole numbers add up without rounding, which unties ranks
    weight = torch.randint(-9, 10, (3 * 4 * 6, 3), generator=torch.Generator().manual_seed(0)).double()

    def linear(shown: torch.Tensor) -> torch.Tensor:
        return shown.flatten(1) @ weight

    game, classes = ModelGame(linear, Constant(linear, players), "logits"), torch.tensor([[0, 2], [1, 0]])
    each = (image.flatten(1).unsqueeze(2) * weight).unflatten(1, (3, 24)).sum(dim=1)  # of a pixel (B, H·W, K)
    members = players.labels.flatten() == torch.arange(players.num_players).unsqueeze(1)
    phi = (members.double() @ each).gather(2, classes.unsqueeze(1).expand(-1, players.num_players, -1))
    coalitions = sensitivity_coalitions(players.num_players, number=20)
    values = coalition_values(game.values, image, coalitions)
    for metric in (SensitivityN(), FaithfulnessCorrelation()):
        metric.update(phi, coalitions, values, classes)
        assert metric.compute() == pytest.approx({"target": 1, "others": 1})
    metric = Infidelity()
    metric.update(phi, coalitions, values, game.grand(image), classes)
    assert list(metric.compute().values()) == pytest.approx([0] * 4, abs=1e-12)
