"""Functions for checks that compare methods: rankings, order of the rows, and tests."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import Field
from torch import Tensor

from fastshap_lab.metrics.bootstrap import paired_test

INTERVALS = (
    "Intervals are 95 % bootstrap intervals over images; p-values are of sign-flip tests of the differences from "
    "Random on the same images."
)

Fraction = Annotated[float, Field(gt=0, lt=1)]


def removed_first(values: Tensor, number: int) -> Tensor:
    """Return a mask (B, P) of the players with the highest values. Of equal ones those with the lower index come first.

    Args:
        values: Values of the players (B, P).
        number: Number of players to take.
    """
    rank = values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < number


def lowest_first(values: Mapping[str, Tensor]) -> list[str]:
    """Return the methods in the order of their means over images; those with an undefined mean come last."""
    means = {name: value.nanmean().item() for name, value in values.items()}
    return sorted(means, key=lambda name: (means[name] != means[name], means[name]))


def difference_from_random(name: str, values: Tensor, random: Tensor, resamples: int) -> dict[str, float]:
    """Return the mean difference from ``random`` on the same images, its 95 % interval, and a paired test's p-value.

    Args:
        name: Name of the columns.
        values: Measure of the method, for each image (N,).
        random: Measure of ``random`` for the same images (N,).
        resamples: Number of bootstrap resamples.
    """
    test = paired_test(values, random, resamples)
    return {name: test.difference, f"{name}_low": test.low, f"{name}_high": test.high, f"p ({name})": test.p_value}
