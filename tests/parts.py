"""Cases of which the default run takes a part: the others are marked ``extended``."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Any

import pytest


def first(number: int, cases: Iterable[Any]) -> list[Any]:
    """Return the cases; all but the first few are marked."""
    return [case if place < number else _marked(case) for place, case in enumerate(cases)]


def pairwise(rows: Sequence[Any], columns: Sequence[Any]) -> list[Any]:
    """Return all pairs, flat; marked are all but a diagonal that meets every row and every column."""
    steps = min(len(rows), len(columns))
    return [
        pair if row % steps == column % steps else _marked(pair)
        for (row, column), pair in (
            ((row, column), (*_flat(rows[row]), *_flat(columns[column])))
            for row, column in product(range(len(rows)), range(len(columns)))
        )
    ]


def _flat(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)


def _marked(case: Any) -> Any:
    return pytest.param(*_flat(case), marks=pytest.mark.extended)
