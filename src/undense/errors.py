"""The one error type that users meet: what, which value, the rule, the remedy."""


class UndenseError(ValueError):
    """Something that the user can mend; commands print its one line without a traceback."""


class DivergenceError(UndenseError):
    """A training run whose loss or gradient stopped being finite, with no remedy left."""
