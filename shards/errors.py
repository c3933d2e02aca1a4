"""The kinds of error that people, not programmers, mend."""


class UserError(Exception):
    """Bad input, settings or surroundings: shown as one line naming the value, the place and the remedy."""

    exit_code = 2


class NotReadyError(UserError):
    """Nothing is wrong, but what this needs is not there yet: the same command will do later (EX_TEMPFAIL)."""

    exit_code = 75
