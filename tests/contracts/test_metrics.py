"""What every entry of ``METRICS`` promises."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

from fastshap_lab.metrics import METRICS, PerImage, sensitivity_coalitions
from tests.oracles import TableGame

IMAGES = 6
GAME = TableGame.random(IMAGES, num_players=6, num_classes=3)
GENERATOR = torch.Generator().manual_seed(0)


def randn(*shape: int) -> Tensor:
    return torch.randn(IMAGES, *shape, generator=GENERATOR, dtype=torch.float64)


PHI, OTHER, MAPS, LOGITS = randn(6, 3), randn(6, 3), randn(8, 9), randn(4, 3)
CLASSES = torch.stack([torch.randperm(3, generator=GENERATOR) for _ in range(IMAGES)])
TARGET, LABELS = CLASSES[:, 0], torch.randint(3, (IMAGES, 8, 9), generator=GENERATOR)
HALVES = sensitivity_coalitions(6, 10, size=3)[0]
PAIRS = torch.stack([HALVES, ~HALVES], dim=1).flatten(0, 1).expand(IMAGES, -1, -1)
VALUES, GRAND, NULL = GAME(GAME.image, PAIRS)
SURE = torch.tensor([0.9, 0.5, 0.95, 0.99, 0.9, 0.2])

# The arguments of ``update`` for all images: what is not a tensor goes along with every batch.
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "additive_fit": (PHI, PAIRS, VALUES, GRAND, NULL),
    "deletion": (GAME.values, GAME.image, PHI, CLASSES),
    "efficiency_gap": (PHI, GRAND, NULL, TARGET),
    "faithfulness_correlation": (PHI, PAIRS, VALUES, CLASSES),
    "imitation": (LOGITS, TARGET, LOGITS[:, 0] + OTHER[:, 0]),
    "infidelity": (PHI, PAIRS, VALUES, GRAND, CLASSES),
    "insertion": (GAME.values, GAME.image, PHI, CLASSES),
    "map_agreement": (MAPS, OTHER.unflatten(1, (2, 3))[..., 0]),
    "map_statistics": (MAPS,),
    "pointing_game": (MAPS, TARGET[:, None, None] == LABELS),
    "segmentation": (MAPS, LABELS, TARGET, SURE),
    "sensitivity_n": (PHI, PAIRS, VALUES, CLASSES),
    "shapley_correlation": (PHI, OTHER),
    "shapley_distance": (PHI, OTHER),
    "shapley_error": (PHI, OTHER, GRAND, NULL, TARGET),
    "similarity": (MAPS, MAPS.flip(2)),
}


def measured(name: str, *parts: list[int]) -> Metric:
    metric = METRICS[name]()
    for rows in parts:
        metric.update(*(each[rows] if isinstance(each, Tensor) else each for each in ARGUMENTS[name]))
    return metric


def numbers(result: Any) -> list[float]:
    """Return every number of nested results, in order."""
    if isinstance(result, dict):
        return [number for value in result.values() for number in numbers(value)]
    if isinstance(result, tuple):
        return [number for value in result for number in numbers(value)]
    return torch.as_tensor(result, dtype=torch.float64).flatten().tolist()


ASKED: list[Callable[[Any], Any]] = [
    lambda metric: metric.compute(),
    lambda metric: metric.intervals(40),
    lambda metric: metric.per_image(),
]
EVERYTHING = list(range(IMAGES))


@pytest.fixture(params=METRICS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_every_metric_is_checked_here():
    assert ARGUMENTS.keys() == METRICS.keys()


@pytest.mark.parametrize("ask", ASKED)
@pytest.mark.parametrize("parts", [[[0], [1, 2], [3, 4, 5]], [[row] for row in EVERYTHING]])
def test_how_batches_are_split_does_not_matter(name, ask, parts):
    whole = numbers(ask(measured(name, EVERYTHING)))
    assert len(whole) > 0
    assert numbers(ask(measured(name, *parts))) == pytest.approx(whole, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("ask", ASKED)
def test_states_of_two_processes_can_be_joined(name, ask):
    first, second = measured(name, [0, 1]), measured(name, [2, 3], [4, 5])
    second.merge_state(first)  # what came first goes in front
    assert numbers(ask(second)) == pytest.approx(numbers(ask(measured(name, EVERYTHING))), rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("ask", ASKED)
def test_states_gathered_into_one_tensor_are_read_alike(name, ask):
    gathered = measured(name, [0, 1], [2, 3, 4], [5])
    for state in gathered._defaults:
        setattr(gathered, state, torch.cat(getattr(gathered, state)))  # as torchmetrics leaves them
    assert numbers(ask(gathered)) == pytest.approx(numbers(ask(measured(name, EVERYTHING))), rel=1e-6, nan_ok=True)


def test_a_reset_forgets(name):
    metric = measured(name, [3, 4, 5])
    metric.reset()
    metric.update(*(each[:2] if isinstance(each, Tensor) else each for each in ARGUMENTS[name]))
    assert numbers(metric.compute()) == pytest.approx(numbers(measured(name, [0, 1]).compute()), nan_ok=True)


def test_arguments_stay_as_they_are(name):
    before = [each.clone() if isinstance(each, Tensor) else None for each in ARGUMENTS[name]]
    measured(name, EVERYTHING)
    for was, each in zip(before, ARGUMENTS[name], strict=True):
        assert was is None or torch.equal(was, each)


def test_which_way_is_better_is_said(name):
    assert METRICS[name].higher_is_better in (True, False, None)
    assert "higher_is_better" in {key for kind in METRICS[name].__mro__[:2] for key in vars(kind)}


def test_single_precision_is_enough(name):
    metric = METRICS[name]()
    metric.update(*(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in ARGUMENTS[name]))
    exact = numbers(measured(name, EVERYTHING).compute())
    assert numbers(metric.compute()) == pytest.approx(exact, rel=1e-3, abs=1e-3, nan_ok=True)


def test_intervals_surround_the_mean_and_the_seed_decides(name):
    metric = measured(name, EVERYTHING)
    if not isinstance(metric, PerImage):
        pytest.skip("pooled measures have tests of their own")
    intervals, means = metric.intervals(300, seed=1), metric.compute()
    assert intervals.keys() == means.keys() == metric.per_image().keys() == metric.nan_count().keys()
    assert all(low <= means[column] <= high for column, (low, high) in intervals.items())
    assert metric.intervals(300, seed=1) == intervals


def test_an_explanation_does_not_differ_from_itself(name):
    metric = measured(name, EVERYTHING)
    if not isinstance(metric, PerImage):
        pytest.skip("pooled measures have no number per image to compare")
    for test in metric.compare(measured(name, [0, 1], [2, 3, 4, 5]), 50).values():
        assert (test.difference, test.p_value) == (0, 1)


@pytest.mark.parametrize("name", ["deletion", "insertion"])
@pytest.mark.parametrize("max_batch", [1, 4, 9, 50])
def test_chunk_sizes_do_not_matter(name, max_batch):
    metric = METRICS[name](step=2, max_batch=max_batch)
    whole = METRICS[name](step=2, max_batch=10**6)
    for each in (metric, whole):
        each.update(*ARGUMENTS[name])
    assert metric.compute() == pytest.approx(whole.compute(), rel=1e-12)
