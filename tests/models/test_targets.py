import numpy as np
import pytest
import torch

from fastshap_lab.errors import UserError
from fastshap_lab.models.targets import as_classes, class_of_each


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (2, [2, 2, 2]),
        (np.int64(2), [2, 2, 2]),
        (torch.tensor(1), [1, 1, 1]),
        ([1], [1, 1, 1]),
        ([0, 3, 1], [0, 3, 1]),
        ((np.int32(0), 3, 1), [0, 3, 1]),
        (np.array([0, 3, 1], dtype=np.uint8), [0, 3, 1]),
        (torch.tensor([0, 3, 1], dtype=torch.int32), [0, 3, 1]),
    ],
    ids=repr,
)
def test_classes_come_as_whole_numbers_of_any_kind(target, expected):
    classes = class_of_each(target, 3, num_classes=4)
    assert classes.dtype == torch.int64
    assert classes.tolist() == expected


@pytest.mark.parametrize(
    ("target", "line"),
    [
        (1.7, "target of type float32: must be whole numbers"),
        (2.0, "target of type float32: must be whole numbers"),
        (True, "target of type bool: must be whole numbers"),
        (np.array([0.0, 1.0, 2.0]), "target of type float64: must be whole numbers"),
        (torch.tensor([True, False, True]), "target of type bool: must be whole numbers"),
        ("cat", "target of type str: must be the numbers of classes"),
        ([0, None, 1], "target of type list: must be the numbers of classes"),
        (4, "target=4: classes are numbered 0 to 3"),
        (-1, "target=-1: classes are numbered 0 to 3"),
        ([0, 7, 1], "target=7: classes are numbered 0 to 3"),
        ([0, 1], r"target of shape \(2,\): must be one class for all images, or one for each of 3"),
        (torch.zeros(3, 1, dtype=torch.long), r"target of shape \(3, 1\): must be one class"),
    ],
    ids=repr,
)
def test_what_is_no_class_is_one_line(target, line):
    with pytest.raises(UserError, match=f"^{line}") as raised:
        class_of_each(target, 3, num_classes=4)
    assert "\n" not in str(raised.value)


def test_negative_classes_are_refused_before_their_number_is_known():
    with pytest.raises(UserError, match="target=-1: classes are numbered from 0"):
        as_classes([[0, 1], [2, -1]])
