import numpy as np
import pytest
import torch

from fastshap_lab.errors import UserError
from fastshap_lab.models.targets import as_classes, chosen_classes, class_of_each


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


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("dog", [2]),
        (1, [1]),
        (np.int64(3), [3]),
        (["dog", 0, "3"], [2, 0, 3]),
        (torch.tensor([3, 1]), [3, 1]),
        ("1", [0]),  # a name before it is a number
    ],
    ids=repr,
)
def test_classes_are_chosen_by_name_or_number(chosen, expected):
    assert chosen_classes(chosen, ["1", "cat", "dog", "cat"]) == expected


@pytest.mark.parametrize(
    ("chosen", "line"),
    [
        ("dgo", "class dgo: unknown, did you mean dog? known: 1, cat, dog, cat"),
        ("cat", "class cat: classes 1, 3 have this name; give the number"),
        (4, "target=4: classes are numbered 0 to 3"),
        ("4", "target=4: classes are numbered 0 to 3"),
        ([1.5], "target of type float32: must be whole numbers"),
        ([], "no class given"),
    ],
    ids=repr,
)
def test_a_class_that_is_not_there_is_named(chosen, line):
    with pytest.raises(UserError) as error:
        chosen_classes(chosen, ["1", "cat", "dog", "cat"])
    assert str(error.value).startswith(line)
