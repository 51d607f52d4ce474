"""The exceptions that are shown to the user without a traceback."""


class UserError(Exception):
    """A mistake the user can mend, said in one line."""


class Interrupted(BaseException):
    """A signal ended the program.

    Args:
        number: Of the signal.
        where: From where the same command goes on.
    """

    def __init__(self, number: int, where: str = "what is saved") -> None:
        super().__init__(f"interrupted; the same command goes on from {where}")
        self.status = 128 + number  # as a shell reports a program that a signal ended
