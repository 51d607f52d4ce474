import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, jaccard_score

from fastshap_lab.metrics import Segmentation
from fastshap_lab.metrics.segmentation import foreground, segmentation_scores

GENERATOR = torch.Generator().manual_seed(0)
MAPS = torch.randn(4, 9, 7, generator=GENERATOR) + 3 * (torch.rand(4, 9, 7, generator=GENERATOR) < 0.3)
LABELS = torch.randint(3, (4, 9, 7), generator=GENERATOR)
LABELS[torch.rand(4, 9, 7, generator=GENERATOR) < 0.2] = 255
TARGET, SURE = torch.tensor([1, 2, 1, 0]), torch.ones(4)


def otsu(values: np.ndarray) -> float:
    """Return the centre of the last bin of the lower class, where the classes' means are farthest apart."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    centres = (edges[1:] + edges[:-1]) / 2
    best, threshold = -1.0, 0.0
    for last in range(255):
        low, high = counts[: last + 1].sum(), counts[last + 1 :].sum()
        if not low or not high:
            continue
        mean_low = (counts[: last + 1] * centres[: last + 1]).sum() / low
        mean_high = (counts[last + 1 :] * centres[last + 1 :]).sum() / high
        spread = low * high * (mean_low - mean_high) ** 2
        if spread > best * (1 + 1e-12):
            best, threshold = spread, centres[last]
    return threshold


def test_otsu_separates_the_classes_best():
    predicted = foreground(MAPS)
    for values, chosen in zip(MAPS.double().numpy(), predicted.numpy(), strict=True):
        stretched = (values - values.min()) / (values.max() - values.min())
        assert (chosen == (stretched > otsu(stretched))).all()
    assert 0 < predicted.double().mean() < 1


def test_scale_and_offset_of_a_map_do_not_matter():
    assert torch.equal(foreground(MAPS.double() * 5 - 2), foreground(MAPS.double()))
    assert torch.equal(foreground(MAPS, threshold=0.5), foreground(MAPS * 4, threshold=0.5))


def test_a_fixed_threshold_is_one_of_the_stretched_map():
    maps = torch.tensor([[[-1.0, 0.0, 1.0, 3.0]]])
    assert foreground(maps, threshold=0.5).tolist() == [[[False, False, False, True]]]


def test_a_constant_map_has_no_foreground():
    assert not foreground(torch.full((2, 3, 3), 0.7)).any()
    assert not foreground(torch.full((2, 3, 3), 0.7), threshold=0.5).any()


def test_scores_are_those_of_other_libraries_without_void():
    metric = Segmentation()
    metric.update(MAPS, LABELS, TARGET, SURE)
    rows = metric.per_image()
    for image, predicted in enumerate(foreground(MAPS)):
        valid = LABELS[image] != 255
        truth, guess = (LABELS[image] == TARGET[image])[valid].numpy(), predicted[valid].numpy()
        everything = np.ones_like(guess)
        expected = {"iou": jaccard_score(truth, guess), "f1": f1_score(truth, guess)}
        expected |= {"everything_iou": jaccard_score(truth, everything), "everything_f1": f1_score(truth, everything)}
        expected |= {"accuracy": accuracy_score(truth, guess), "everything_accuracy": truth.mean()}
        measured = {name: values[image].item() for name, values in rows.items()}
        assert measured == pytest.approx({name: 100 * value for name, value in expected.items()})


def test_empty_union_empty_prediction_and_nothing_but_void():
    empty, some = torch.zeros(1, 2, 2, dtype=torch.bool), torch.tensor([[[True, False], [False, False]]])
    everywhere = ~empty
    assert segmentation_scores(empty, empty, everywhere).tolist() == [[100, 100, 100]]
    assert segmentation_scores(empty, some, everywhere).tolist() == [[0, 0, 75]]
    assert segmentation_scores(some, empty, everywhere).tolist() == [[0, 0, 75]]
    assert segmentation_scores(some, empty, ~some).tolist() == [[100, 100, 100]]  # its only pixel is void
    assert segmentation_scores(some, some, empty).isnan().all()


def test_a_perfect_map_scores_a_hundred():
    metric = Segmentation()
    metric.update((TARGET[:, None, None] == LABELS).float(), LABELS, TARGET, SURE)
    assert [metric.compute()[name] for name in ("iou", "f1", "accuracy")] == [100, 100, 100]


def test_only_images_that_the_classifier_is_sure_of_remain():
    metric, remaining = Segmentation(), Segmentation()
    metric.update(
        MAPS, LABELS, TARGET, torch.tensor([0.9, 0.85, 0.2, 0.86], dtype=torch.float64)
    )  # 0.85 is not greater
    remaining.update(MAPS[[0, 3]], LABELS[[0, 3]], TARGET[[0, 3]], SURE[:2])
    assert (metric.num_images, set(metric.nan_count().values())) == (4, {2})
    assert metric.compute() == pytest.approx(remaining.compute())


def test_a_map_that_is_not_finite_is_left_out():
    maps = MAPS.clone()
    maps[1, 0, 0], maps[2, 0, 0] = torch.nan, torch.inf
    metric = Segmentation()
    metric.update(maps, LABELS, TARGET, SURE)
    assert metric.nan_count()["iou"] == 2
    assert metric.nan_count()["everything_iou"] == 0
