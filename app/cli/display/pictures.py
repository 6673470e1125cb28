"""Lines of blocks and bars, which show a value as a picture in a cell of a table. Pure."""

from collections.abc import Sequence
from typing import Final

BLOCKS: Final = "▁▂▃▄▅▆▇█"


def sparkline(shares: Sequence[float]) -> str:
    """Return shares as blocks from empty (0) to full (1)."""
    return "".join(BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)] for share in shares)


def resampled(values: Sequence[float], width: int) -> list[float]:
    """Return the values at `width` places, evenly from the first to the last."""
    steps = max(width - 1, 1)
    return [values[round(place * (len(values) - 1) / steps)] for place in range(width)]


def bar(share: float, width: int) -> str:
    """Return a share as a bar of at most `width` characters."""
    return "━" * round(share * width)
