"""Valkey: clients without the retries of redis-py, which could repeat a write, and its keys."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.core.errors import Unavailable
from app.core.outages import VALKEY_ERRORS

KEY_PREFIX: Final = "wald"

Valkey: TypeAlias = Redis


def create_client(url: str, **options: Any) -> Redis:
    """Return a client that runs each command at most once and waits at most five seconds.

    `url` is `redis://`, `rediss://` or `unix://`. Pass `socket_timeout=None` for blocking reads.
    """
    defaults: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": 5.0,
        "socket_connect_timeout": 2.0,
        "health_check_interval": 0,
    }
    return Redis.from_url(url, **(defaults | options))


@contextmanager
def valkey_needed() -> Iterator[None]:
    """Raise Unavailable if Valkey does not answer."""
    try:
        yield
    except VALKEY_ERRORS as error:
        raise Unavailable(f"Valkey does not answer: {error}") from error


RESPONSES: Final = -1
"""Number of the stream of responses, beside the shards: texts never delay exposures and signals."""


def shard_key(shard: int, name: str) -> str:
    """Return a key of one stream shard. The hash tag keeps a shard's keys in one cluster slot."""
    tag = "responses" if shard == RESPONSES else shard
    return f"{KEY_PREFIX}:{{{tag}}}:{name}"


def registry_key(name: str) -> str:
    """Return a key of what every server loads: published experiments and access."""
    return f"{KEY_PREFIX}:{{registry}}:{name}"


CHANGES_CHANNEL: Final = f"{KEY_PREFIX}:changes"
