"""The exceptions that are shown to the user without a traceback."""

from numbers import Integral
from typing import Any


class UserError(Exception):
    """A mistake the user can mend, said in one line."""


def check_max_batch(max_batch: Any) -> None:
    """Raise a ``UserError`` where a number of rows per pass is not 1 or more."""
    if not isinstance(max_batch, Integral) or isinstance(max_batch, bool) or max_batch < 1:
        raise UserError(f"max_batch={max_batch}: must be a whole number of 1 or more, rows per pass")


class Interrupted(BaseException):
    """A signal ended the program.

    Args:
        number: Of the signal.
        where: From where the same command goes on.
    """

    def __init__(self, number: int, where: str = "what is saved") -> None:
        super().__init__(f"interrupted; the same command goes on from {where}")
        self.status = 128 + number  # as a shell reports a program that a signal ended
