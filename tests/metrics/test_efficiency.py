import pytest
import torch

from fastshap_lab.metrics import EfficiencyGap
from fastshap_lab.shapley import additive_normalization

PHI = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
GRAND = torch.rand(5, 3, generator=torch.Generator().manual_seed(1))
NULL = torch.rand(1, 3, generator=torch.Generator().manual_seed(2))
TARGET = torch.tensor([0, 2, 1, 1, 0])


def test_gaps_follow_the_definition():
    metric = EfficiencyGap()
    metric.update(PHI, GRAND, NULL, TARGET)
    for image in range(5):
        gaps = [float(GRAND[image, k]) - float(NULL[0, k]) - sum(PHI[image, :, k].tolist()) for k in range(3)]
        target = gaps.pop(int(TARGET[image]))
        expected = [target, abs(target), sum(gaps) / 2, (abs(gaps[0]) + abs(gaps[1])) / 2]
        row = {name: values[image].item() for name, values in metric.per_image().items()}
        assert row == pytest.approx(dict(zip(EfficiencyGap.columns, expected, strict=True)))


def test_normalized_values_have_none():
    metric = EfficiencyGap()
    metric.update(additive_normalization(PHI, GRAND, NULL), GRAND, NULL, TARGET)
    assert metric.compute() == pytest.approx(dict.fromkeys(EfficiencyGap.columns, 0), abs=1e-6)
