"""The errors that a user, not a programmer, can mend."""


class UserError(Exception):
    """Bad input, settings or environment. Shown as one line that names the value, the place and the remedy."""

    exit_code = 2


class NotReadyError(UserError):
    """Nothing is wrong, but something that this needs is not there yet: run the same command later (EX_TEMPFAIL)."""

    exit_code = 75
