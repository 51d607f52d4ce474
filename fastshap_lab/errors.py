"""The one exception that is shown to the user without a traceback."""


class UserError(Exception):
    """A mistake the user can mend, said in one line."""
