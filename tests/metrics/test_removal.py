import math

import pytest
import torch
from torch import Tensor

from fastshap_lab.metrics import Deletion, Insertion
from fastshap_lab.metrics.removal import area_under_curve, removal_curves
from fastshap_lab.models import ModelGame
from fastshap_lab.models.maskings import Constant
from fastshap_lab.models.tasks import Multilabel, Regression
from fastshap_lab.shapley import PlayerGrid, Segments
from tests import small
from tests.oracles import TableGame

GAME = TableGame.random(num_images=3, num_players=5, num_classes=4)
CLASSES = torch.tensor([[0, 2], [3, 1], [1, 0]])
PHI = torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
PHI[0, :, 0] = torch.tensor([0.5, 2.0, 0.5, 2.0, 0.5])  # ties
PHI[1, :, 1] = 0.0  # nothing but ties


def slowly(image: int, phi: list[float], k: int, insert: bool, step: int) -> list[list[float]]:
    """Return probability, log-odds and agreement after each step, from the definition."""
    order = sorted(range(len(phi)), key=lambda unit: (-phi[unit], unit))
    everyone = range(len(phi))
    curves = []
    for moved in [*range(0, len(phi), step), len(phi)]:
        present = order[:moved] if insert else order[moved:]
        logits = GAME.table[image, sum(2**unit for unit in present)].tolist()
        whole = GAME.table[image, sum(2**unit for unit in everyone)].tolist()
        p = math.exp(logits[k]) / math.fsum(math.exp(logit) for logit in logits)
        agrees = logits.index(max(logits)) == whole.index(max(whole))
        curves.append([p, math.log(p / (1 - p)), float(agrees)])
    return [list(curve) for curve in zip(*curves, strict=True)]


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 7])
def test_curves_follow_the_definition(insert, step):
    curves = removal_curves(GAME.values, GAME.image, PHI, CLASSES, insert, step)
    assert curves.shape == (3, 2, 3, math.ceil(5 / step) + 1)
    for image in range(3):
        for place, k in enumerate(CLASSES[image].tolist()):
            expected = torch.tensor(slowly(image, PHI[image, :, place].tolist(), k, insert, step), dtype=torch.float64)
            torch.testing.assert_close(curves[image, place], expected)


@pytest.mark.parametrize("metric", [Deletion, Insertion])
def test_areas_and_curves_are_means_over_images(metric):
    measured = metric(step=2)
    measured.update(GAME.values, GAME.image, PHI, CLASSES)
    areas, heights = [], []
    for image in range(3):
        row = []
        for place, k in enumerate(CLASSES[image].tolist()):
            row += slowly(image, PHI[image, :, place].tolist(), k, metric is Insertion, 2)
        heights.append(row[:5])
        # Four scores, three steps, the last one of a single unit counted like the others.
        areas.append([(math.fsum(curve) - (curve[0] + curve[3]) / 2) / 3 for curve in row[:5]])
    means = torch.tensor(areas, dtype=torch.float64).mean(dim=0).tolist()
    assert measured.compute() == pytest.approx(dict(zip(measured.columns, means, strict=True)))
    for name, curve in zip(measured.columns, torch.tensor(heights, dtype=torch.float64).mean(dim=0), strict=True):
        torch.testing.assert_close(measured.curves()[name], curve)


def test_the_others_are_averaged_over_and_may_be_left_out():
    three = torch.tensor([[0, 2, 1], [3, 1, 0], [1, 0, 2]])
    phi = torch.cat([PHI, PHI[:, :, :1].flip(1)], dim=2)
    measured, target = Deletion(), Deletion()
    measured.update(GAME.values, GAME.image, phi, three)
    target.update(GAME.values, GAME.image, phi[:, :, :1], three[:, :1])
    assert target.compute().keys() == {"probability", "log_odds", "agreement"}
    assert {name: measured.compute()[name] for name in target.compute()} == pytest.approx(target.compute())
    areas = area_under_curve(removal_curves(GAME.values, GAME.image, phi, three, insert=False))
    assert measured.compute()["others_log_odds"] == pytest.approx(areas[:, 1:, 1].mean().item())


TASKS = {
    "multilabel": (Multilabel(), lambda z, k: [1 / (1 + math.exp(-z[k])), z[k]], lambda z: [one > 0 for one in z]),
    "regression": (Regression((1.0,) * 4, (0.5, 1.0, 2.0, 4.0)), lambda z, k: [(z[k] - 1) / (0.5, 1, 2, 4)[k]], None),
}


@pytest.mark.parametrize("insert", [False, True])
@pytest.mark.parametrize("name", TASKS)
def test_other_tasks_are_measured_in_their_own_terms(name, insert):
    task, of_class, decided = TASKS[name]
    curves = removal_curves(GAME.values, GAME.image, PHI, CLASSES, insert, task=task)
    for image in range(3):
        whole = GAME.table[image, -1].tolist()
        for place, k in enumerate(CLASSES[image].tolist()):
            order = sorted(range(5), key=lambda unit, i=image, e=place: (-PHI[i, unit, e].item(), unit))
            rows = []
            for moved in range(6):
                present = order[:moved] if insert else order[moved:]
                outputs = GAME.table[image, sum(2**unit for unit in present)].tolist()
                if decided is not None:
                    agrees = decided(outputs) == decided(whole)
                else:  # half a spread off, at most
                    agrees = all(abs(a - b) <= s / 2 for a, b, s in zip(outputs, whole, task.spread, strict=True))
                rows.append([*of_class(outputs, k), float(agrees)])
            torch.testing.assert_close(curves[image, place], torch.tensor(rows, dtype=torch.float64).T)
    metric = (Insertion if insert else Deletion)(task=task)
    metric.update(GAME.values, GAME.image, PHI, CLASSES)
    assert metric.compute().keys() == {*task.class_measures, "agreement", *(f"others_{m}" for m in task.class_measures)}
    others = area_under_curve(curves)[:, 1, :-1].mean(dim=0).tolist()
    assert list(metric.compute().values())[-len(others) :] == pytest.approx(others)


@pytest.mark.parametrize("max_batch", [1, 2, 5, 7, 12, 13, 30, 1000])
def test_chunks_change_nothing_and_are_small_enough(max_batch):
    asked = []

    def value_fn(image: Tensor, coalitions: Tensor) -> Tensor:
        asked.append(coalitions.shape[0] * coalitions.shape[1])
        return GAME.values(image, coalitions)

    chunked = removal_curves(value_fn, GAME.image, PHI, CLASSES, True, max_batch=max_batch)
    torch.testing.assert_close(chunked, removal_curves(GAME.values, GAME.image, PHI, CLASSES, True), rtol=0, atol=0)
    assert max(asked) <= max_batch
    assert sum(asked) == 3 * 2 * 6


def test_a_linear_model_has_curves_in_closed_form_that_its_own_weights_order_best():
    # Log-odds of class 0 of two are the sum of the weights that are present.
    weights = torch.tensor([4.0, 3.0, 2.0, 1.0, -1.0, -2.0], dtype=torch.float64)

    def value_fn(image: Tensor, coalitions: Tensor) -> Tensor:
        odds = coalitions.double() @ weights
        return torch.stack([odds, torch.zeros_like(odds)], dim=-1)

    image = torch.zeros(1, 3, 2, 3)

    def log_odds(phi: Tensor, insert: bool) -> list[float]:
        curves = removal_curves(value_fn, image, phi.view(1, -1, 1), torch.zeros(1, 1, dtype=torch.long), insert)
        return curves[0, 0, 1].tolist()

    assert log_odds(weights, insert=False) == pytest.approx([7, 3, 0, -2, -3, -2, 0], abs=1e-9)
    assert log_odds(weights, insert=True) == pytest.approx([0, 4, 7, 9, 10, 9, 7], abs=1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        other = torch.randn(6, generator=generator, dtype=torch.float64)
        assert sum(log_odds(other, insert=False)) >= sum(log_odds(weights, insert=False))
        assert sum(log_odds(other, insert=True)) <= sum(log_odds(weights, insert=True))


def test_attributions_without_an_order_are_undefined_and_counted():
    phi = PHI.clone()
    phi[1, 2, 0] = torch.nan
    measured, rest = Deletion(), Deletion()
    measured.update(GAME.values, GAME.image, phi, CLASSES)
    rest.update(GAME.values, GAME.image[[0, 2]], PHI[[0, 2]], CLASSES[[0, 2]])
    assert measured.nan_count() == dict.fromkeys(measured.columns[:3], 1) | dict.fromkeys(measured.columns[3:], 0)
    for name in measured.columns[:3]:
        assert measured.compute()[name] == pytest.approx(rest.compute()[name])


PATCHES = torch.tensor([[row // 2 * 3 + column // 2 for column in range(6)] for row in range(4)])
UNEVEN = small.label_map(5, (4, 6))


@pytest.mark.parametrize(
    ("players", "labels"),
    [
        (PlayerGrid((4, 6), (4, 6)), torch.arange(24).view(4, 6)),
        (PlayerGrid((4, 6), (2, 3)), PATCHES),
        (Segments(PATCHES), PATCHES),
        (Segments(UNEVEN), UNEVEN),
    ],
    ids=["pixels", "patches", "segments that are patches", "segments"],
)
def test_pixels_patches_and_segments_are_units_of_a_picture(players, labels):
    generator = torch.Generator().manual_seed(0)
    image, maps = (torch.rand(2, channels, 4, 6, generator=generator).double() for channels in (3, 1))
    weight = torch.randn(3 * 4 * 6, 2, generator=generator).double()
    baseline = torch.tensor([0.2, 0.4, 0.6]).view(3, 1, 1)

    def linear(shown):
        return shown.flatten(1) @ weight

    game = ModelGame(linear, Constant(linear, players, baseline.flatten().tolist()), "logits")
    phi = players.pool(maps)
    curves = removal_curves(game.values, image, phi, torch.zeros(2, 1, dtype=torch.long), insert=False, step=4)
    for b in range(2):
        averages = [float(maps[b, 0][labels == unit].mean()) for unit in range(players.num_players)]
        order = sorted(range(len(averages)), key=lambda unit: -averages[unit])
        shown = image[b].clone()
        for point in range(curves.shape[-1]):
            for unit in order[max(0, 4 * point - 4) : 4 * point] if point else []:
                shown = torch.where(labels == unit, baseline.double(), shown)
            expected = (shown.flatten() @ weight).softmax(dim=0)[0]
            assert curves[b, 0, 0, point].item() == pytest.approx(expected.item())
