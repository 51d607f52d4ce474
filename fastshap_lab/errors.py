"""Exceptions that are shown to the user as one line, without a traceback."""

from numbers import Integral
from typing import Any


class UserError(Exception):
    """A mistake that the user can correct, described in one line: what, where, and what would be right."""


def check_max_batch(max_batch: Any) -> None:
    """Raise a ``UserError`` if a number of rows per pass is not an integer of 1 or more."""
    if not isinstance(max_batch, Integral) or isinstance(max_batch, bool) or max_batch < 1:
        raise UserError(f"max_batch={max_batch}: must be a whole number of 1 or more, rows per pass")


class Interrupted(BaseException):
    """A signal has ended the program.

    Args:
        number: Number of the signal.
        where: Place from which the same command continues, for the message.
    """

    def __init__(self, number: int, where: str = "what is saved") -> None:
        super().__init__(f"interrupted; the same command goes on from {where}")
        self.status = 128 + number  # the exit status that shells report for a program ended by this signal
