"""A task that is cancelled at a chosen one of its waits."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class Dying(Coroutine[Any, Any, Any]):
    """Runs `coroutine` as `task`, and cancels it at its wait of that number, from 1.

    Either at once, or when it has been `answered`: what it waited for has happened, and it does not know yet.
    `waits`: how many there were, which stays below `number` where it got through.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, Any], number: int, *, answered: bool) -> None:
        self._coroutine, self._number, self._answered = coroutine, number, answered
        self.waits = 0
        self.task = asyncio.create_task(self)

    def send(self, value: Any) -> Any:
        return self._at(self._coroutine.send(value))

    def throw(self, *error: Any) -> Any:
        return self._at(self._coroutine.throw(*error))

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._coroutine.__await__())

    def _at(self, awaited: asyncio.Future[Any] | None) -> Any:
        self.waits += 1
        if self.waits == self._number:
            if self._answered and awaited is not None:
                awaited.add_done_callback(lambda _: self.task.cancel())
            else:
                self.task.cancel()
        return awaited
