"""The one error type that users meet: what, which value, the rule, the remedy."""


class UndenseError(ValueError):
    """Something that the user can mend; commands print its one line without a traceback."""


class RunDivergedError(UndenseError):
    """A training run that diverged once more than it may go back."""
