import pytest
import torch

from fastshap_lab.attribution import METHODS
from fastshap_lab.evaluation.checks.by_method import removed_first
from fastshap_lab.evaluation.checks.masked_accuracy import MaskedAccuracy
from fastshap_lab.evaluation.statistics import player_values
from fastshap_lab.shapley import PlayerGrid


@pytest.fixture(scope="module")
def tables(evaluation):
    MaskedAccuracy((0.25, 0.75))(evaluation, "masked_accuracy")
    return evaluation.report.tables


def test_accuracies_are_the_surrogates_without_the_highest_players_and_with_them_alone(evaluation, tables):
    pipeline, indices = evaluation.pipelines[0], evaluation.evaluated
    image, target = evaluation.images(indices), evaluation.classes(pipeline)[:, 0]
    maps = METHODS["saliency"](pipeline.classifier).attribute(image, target).double()
    means = maps.view(6, 2, 8, 2, 8).mean(dim=(2, 4)).flatten(1)
    shown = tables["masked_accuracy-shares"].set_index(["method", "players"]).loc["saliency"]
    for share, number in {"25%": 1, "75%": 3}.items():
        for way in ("deletion", "insertion"):
            right = 0
            for place, index in enumerate(indices.tolist()):
                highest = sorted(range(4), key=lambda player: (-means[place, player], player))[:number]
                present = torch.tensor([[[(player in highest) == (way == "insertion") for player in range(4)]]])
                answer = pipeline.surrogate(image[place : place + 1], present).argmax()
                right += int(answer == evaluation.test.labels[index])
            assert shown.loc[way][share] == pytest.approx(right / 6)


def test_ends_do_not_depend_on_the_method_and_means_are_over_the_shares_between(tables):
    shares = tables["masked_accuracy-shares"].set_index(["method", "players"])
    for way, whole in (("deletion", "0%"), ("insertion", "100%")):
        assert shares.xs(way, level="players")[["0%", "100%"]].nunique().eq(1).all()
        assert shares.loc["random", "deletion"]["0%"] == shares.loc["random", way][whole]
    table = tables["masked_accuracy"].set_index("method")
    assert set(table.index) == {"random", "saliency", "grad_cam", "explainer"}
    assert table.loc["random"]["deletion minus random"] == 0
    for name, row in table.iterrows():
        assert row["deletion"] == pytest.approx(shares.loc[name, "deletion"][["25%", "75%"]].mean())
        assert row["insertion_low"] <= row["insertion"] <= row["insertion_high"]
    assert table["deletion"].is_monotonic_increasing


def test_players_take_the_mean_of_a_map_and_a_coarser_map_is_enlarged_first():
    fine = torch.arange(16.0).view(1, 1, 4, 4)
    means = player_values(fine, PlayerGrid((8, 8), (2, 2)))[..., 0]
    torch.testing.assert_close(means, torch.tensor([[2.5, 4.5, 10.5, 12.5]]))
    coarse = player_values(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]]), PlayerGrid((8, 8), (4, 4)))
    torch.testing.assert_close(coarse.view(4, 4), torch.tensor([0.0, 0.25, 0.75, 1.0]).expand(4, 4))


def test_ties_go_by_index():
    removed = removed_first(torch.tensor([[1.0, 2.0, 1.0, 2.0]]), 3)
    assert removed.tolist() == [[True, True, False, True]]
