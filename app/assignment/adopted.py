"""What a server took before it was published: its own changes, which it serves by at once."""

from typing import Final

HOLD_S: Final = 10.0
"""How long what is published may be older before it replaces what was taken: PostgreSQL was put back then."""


class Adopted:
    """Versions by name, each until the same or a newer one is published."""

    def __init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._older_since: dict[str, float] = {}

    def take(self, name: str, version: int) -> None:
        """Note that this version is in use and not published yet."""
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
