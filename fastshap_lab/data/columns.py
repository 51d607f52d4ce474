"""Reader of labels from the columns of a table, which finds the task, the class names and the labels."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastshap_lab.errors import UserError
from fastshap_lab.models.tasks import TASKS, Task

Columns = Mapping[str, Sequence[Any]]
Place = Callable[[int], str]
"""Returns the file and line of a row, by its index, for error lines."""


@dataclass(frozen=True)
class Labels:
    """The labels of N images.

    Attributes:
        task: Task that the labels are for.
        class_names: Names of the K classes, labels or targets.
        values: Labels, int64 (N,) for ``multiclass`` and float64 (N, K) for the other tasks.
    """

    task: Task
    class_names: list[str]
    values: np.ndarray


def read_columns(columns: Columns, task: Task | None, place: Place) -> Labels:
    """Return the labels of images from one or several columns.

    Words are names of classes (``multiclass``). A column of 0 and 1, or of false and true, tells whether a label
    applies (one column: ``binary``, several: ``multilabel``). Any other numbers are targets (``regression``).

    Args:
        columns: Values of the N images by column name; numbers, or text, which may contain numbers.
        task: Task that the columns are read for. None: the values decide, as described above.
        place: Returns the file and line of a row, by its index, for error lines.

    Raises:
        UserError: A value is missing or not finite, or the columns do not fit the task.
    """
    read = {name: _numbers_or_words(name, values, place) for name, values in columns.items()}
    if task is None:
        words = any(values.dtype.kind == "U" for values in read.values())
        flags = all(map(_is_flag, read.values()))
        several = "multilabel" if len(read) > 1 else "binary"
        task = TASKS["multiclass" if words else several if flags else "regression"]()
    class_names, values = _READERS[task.name](read, place)
    return Labels(task, class_names, values)


def _numbers_or_words(name: str, values: Sequence[Any], place: Place) -> np.ndarray:
    """Return a column as float64 if all values are numbers, else as text."""
    said = {"true": "1", "false": "0"}
    texts = [said.get(text.lower(), text) for text in (str(value).strip() for value in values)]
    for row, (value, text) in enumerate(zip(values, texts, strict=True)):
        if value is None or not text:
            raise UserError(f"{place(row)}: {name} is empty; every image needs a value, or leave the image out")
    try:
        numbers = np.array([float(text) for text in texts])
    except ValueError:
        return np.array(texts)
    if wrong := np.flatnonzero(~np.isfinite(numbers)).tolist():
        raise UserError(f"{place(wrong[0])}: {name} is {texts[wrong[0]]}, must be a finite number")
    return numbers


def _is_flag(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and set(np.unique(values)) <= {0.0, 1.0}


def _only(columns: Mapping[str, np.ndarray], task: str) -> tuple[str, np.ndarray]:
    if len(columns) != 1:
        raise UserError(f"data.task={task}: there must be one column of labels, found {', '.join(columns)}")
    return next(iter(columns.items()))


def _classes(columns: Mapping[str, np.ndarray], place: Place) -> tuple[list[str], np.ndarray]:
    name, values = _only(columns, "multiclass")
    found, labels = np.unique(values, return_inverse=True)
    if values.dtype.kind == "f":
        if broken := np.flatnonzero(values % 1).tolist():
            raise UserError(
                f"{place(broken[0])}: {name} is {values[broken[0]]}, which is no class; data.task=regression reads any "
                "numbers"
            )
        return [str(int(number)) for number in found], labels.reshape(-1)
    return [str(word) for word in found], labels.reshape(-1)


def _holds(columns: Mapping[str, np.ndarray], place: Place) -> tuple[list[str], np.ndarray]:
    name, values = _only(columns, "binary")
    if _is_flag(values):
        return [name], values.reshape(-1, 1)
    found = np.unique(values).tolist()
    if len(found) != 2:
        raise UserError(f"data.task=binary: {name} has {len(found)} different values, must have 2")
    return [str(found[1])], (values == found[1]).astype(float).reshape(-1, 1)


def _flags(columns: Mapping[str, np.ndarray], place: Place) -> tuple[list[str], np.ndarray]:
    for name, values in columns.items():
        if not _is_flag(values):
            row = int(np.flatnonzero(~np.isin(values.astype(str), ("0.0", "1.0")))[0])
            raise UserError(f"{place(row)}: {name} is {values[row]}, must be 0 or 1 (data.task=multilabel)")
    return list(columns), np.stack(list(columns.values()), axis=1)


def _targets(columns: Mapping[str, np.ndarray], place: Place) -> tuple[list[str], np.ndarray]:
    for name, values in columns.items():
        if values.dtype.kind != "f":
            row = next(row for row, value in enumerate(values) if not _is_number(value))
            raise UserError(f"{place(row)}: {name} is {values[row]}, must be a number (data.task=regression)")
    return list(columns), np.stack(list(columns.values()), axis=1)


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


_READERS: dict[str, Callable[[Mapping[str, np.ndarray], Place], tuple[list[str], np.ndarray]]] = {
    "multiclass": _classes,
    "multilabel": _flags,
    "binary": _holds,
    "regression": _targets,
}
