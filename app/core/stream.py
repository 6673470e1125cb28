"""Appending to the streams of events, for producers whose callers wait for the acknowledgement."""

import asyncio
from collections.abc import Callable
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

import hiredis

from app.core.errors import Unavailable
from app.core.multiplex import MultiplexedConnection
from app.core.valkey import shard_key

_APPEND: Final = files(__package__).joinpath("lua/append.lua").read_bytes()
_APPEND_SHA: Final = sha1(_APPEND, usedforsecurity=False).hexdigest()


class StreamAppender(MultiplexedConnection):
    """A connection that appends entries to the shards of the event stream, any number in flight."""

    async def append(self, shard: int, kind: str, n: int, body: bytes) -> None:
        """Append an entry of `n` events. Returns when Valkey has written it to its append-only file.

        Raises Unavailable; then it may or may not have been written.
        """
        keys = shard_key(shard, "events"), shard_key(shard, "appended")
        try:
            try:
                await self.ask("EVALSHA", _APPEND_SHA, 2, *keys, kind, n, body)
            except hiredis.ReplyError as error:
                if not str(error).startswith("NOSCRIPT"):
                    raise
                await self.ask("EVAL", _APPEND, 2, *keys, kind, n, body)  # safe: nothing ran
        except hiredis.ReplyError as error:
            raise Unavailable(f"Valkey: {error}") from error

    async def _prepare(self, ask: Callable[..., asyncio.Future[Any]]) -> None:
        await ask("SCRIPT", "LOAD", _APPEND)
