"""Own changes of a server, which it uses before they are published. Pure."""

from typing import Final

HOLD_S: Final = 10.0
"""Time after which an older publication wins, because PostgreSQL was restored from a backup."""


class Adopted:
    """Own versions by name, each until the same or a newer version is published."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._older_since: dict[str, float] = {}

    def take(self, name: str, version: int) -> None:
        """Note that this version is in use but not published yet."""
        self._versions[name] = version
        self._older_since.pop(name, None)

    def outdates(self, name: str, published: int, now_s: float) -> bool:
        """Return whether `published` is older than the version in use and must not replace it yet.

        `now_s` is a monotonic time.
        """
        if name not in self._versions:
            return False
        if published < self._versions[name]:
            since = self._older_since.setdefault(name, now_s)
            if now_s - since < HOLD_S:
                return True
        del self._versions[name]
        self._older_since.pop(name, None)
        return False
