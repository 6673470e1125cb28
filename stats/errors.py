"""What a statistic refuses: `InvalidInput` is about the parameters, `InsufficientData` about the data."""


class InvalidInput(ValueError):
    """A parameter or total that means nothing, whatever has been observed. Names the value and the bound."""


class InsufficientData(ValueError):
    """Too little has been observed for an answer. Never replaced by `p = 1` or an interval of zero width."""
