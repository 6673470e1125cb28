"""A stream entry that is ready to append. Pure."""

from typing import NamedTuple


class Packed(NamedTuple):
    """One stream entry to append: its kind, its number of events and its body."""

    kind: str
    n: int
    body: bytes
