"""Errors of statistics: `InvalidInput` for parameters, `InsufficientData` for data."""


class InvalidInput(ValueError):
    """A parameter or total that is invalid for any data. The message names value and bound."""


class InsufficientData(ValueError):
    """Too few data for an answer.

    A method never returns `p = 1` or an interval of zero width instead.
    """
