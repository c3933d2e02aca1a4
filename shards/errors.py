"""The one kind of error that people, not programmers, mend."""


class UserError(Exception):
    """Bad input, settings or surroundings: shown as one line naming the value, the place and the remedy; exit code 2."""
