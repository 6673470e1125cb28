"""Items of a loop that fail apart, so that one bad item does not stop the others."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeVar

import structlog

from app.core.outages import POSTGRES_AWAY
from app.core.telemetry import DEGRADED

_LOG: Final = structlog.get_logger(__name__)

T = TypeVar("T")


class Items:
    """Items of one loop. `errors` names those that fail at present, with the reason.

    `degraded` is the label of the loop in the metric `wald_degraded`. `event` is the log's event
    for an item that begins to fail.
    """

    def __init__(self, degraded: str, event: str) -> None:
        self.errors: dict[str, str] = {}
        self._degraded = degraded
        self._event = event

    async def each(self, items: Mapping[str, T], handle: Callable[[T], Awaitable[object]]) -> None:
        """Handle all items, each with its name for people, and forget the errors of other items.

        Raises errors that mean that PostgreSQL is away, because other items would fail too.
        """
        self.errors = {name: error for name, error in self.errors.items() if name in items}
        for name, item in items.items():
            try:
                await handle(item)
                self.errors.pop(name, None)
            except POSTGRES_AWAY:
                raise
            except Exception as error:  # noqa: BLE001 - other items must not wait for this one
                if name not in self.errors:
                    _LOG.error(self._event, item=name, exc_info=error)
                self.errors[name] = f"{type(error).__name__}: {error}"
        DEGRADED.labels(self._degraded).set(bool(self.errors))
