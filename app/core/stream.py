"""Append to the streams of events, for producers that wait for the acknowledgement."""

import asyncio
from collections.abc import Callable
from hashlib import sha1
from importlib.resources import files
from typing import Any, Final

import hiredis
from redis.asyncio import Redis

from app.core.errors import Unavailable
from app.core.multiplex import MultiplexedConnection
from app.core.valkey import RESPONSES, shard_key

_APPEND: Final = files(__package__).joinpath("lua/append.lua").read_bytes()
_PROBE: Final = files(__package__).joinpath("lua/probe.lua").read_text()
_REMEDIES: Final = {
    "maxmemory": "raise maxmemory, or see why the worker does not drain the streams",
    "read only replica": "name the primary in WALD_VALKEY_URL",
    "MISCONF": "free its disk",
    "loading": "wait until it has read its data",
}
"""Fix for an error of Valkey, by words that occur in it."""

_APPEND_SHA: Final = sha1(_APPEND, usedforsecurity=False).hexdigest()


async def refusal(valkey: Redis, *, shards: int) -> str:
    """Return why Valkey would refuse an event or a response; empty if it accepts all.

    Raises the client's error if Valkey does not answer.
    """
    pipeline = valkey.pipeline(transaction=False)
    streams = (*range(shards), RESPONSES)
    for shard in streams:
        keys = [shard_key(shard, name) for name in ("events", "appended", "probe")]
        pipeline.eval(_PROBE, len(keys), *keys, "1")
    replies: list[Any] = await pipeline.execute(raise_on_error=False)
    refused = {
        shard: str(reply)
        for shard, reply in zip(streams, replies, strict=True)
        if isinstance(reply, Exception)
    }
    if not refused:
        return ""
    error = next(iter(refused.values()))
    remedy = next((remedy for words, remedy in _REMEDIES.items() if words.lower() in error.lower()), "")
    named = ("responses" if shard == RESPONSES else str(shard) for shard in refused)
    where = "every shard" if len(refused) == len(streams) else f"shards {', '.join(named)}"
    return f"events are refused for {where}: {error}" + (f"; {remedy}" if remedy else "")


class StreamAppender(MultiplexedConnection):
    """A connection that appends entries to the shards of the event stream."""

    async def append(self, shard: int, kind: str, n: int, body: bytes) -> None:
        """Append an entry of `n` events. Returns after Valkey wrote it to its append-only file.

        Raises Unavailable; the entry may or may not have been written then.
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
