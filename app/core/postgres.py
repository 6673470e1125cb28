"""PostgreSQL: metadata of the schema, the pool, and connections that notice a hang."""

import asyncio
from collections.abc import Generator
from time import monotonic
from typing import Any, Final, Self, TypeAlias, TypeVar

import psycopg
from psycopg import AsyncConnection
from sqlalchemy import URL, MetaData, make_url
from sqlalchemy.ext.asyncio import AsyncConnection as SqlalchemyConnection
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core import limits

Transaction: TypeAlias = SqlalchemyConnection
"""A connection of the pool in a transaction. Services pass it between stores."""

Session: TypeAlias = AsyncConnection[Any]
"""A connection outside the pool, as `connect` opens it."""

_T = TypeVar("_T")

METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_OPTIONS: Final = (
    "-c statement_timeout=30000 -c lock_timeout=10000"
    # A process that stops in a transaction loses its locks before others give up waiting.
    " -c idle_in_transaction_session_timeout=8000 -c timezone=UTC"
    # Our statements are short; compiling one takes longer than running it.
    " -c jit=off"
)

# Over a network, we give up a silent server after about 10 s, not after minutes.
_LIVENESS: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def sqlalchemy_url(url: str) -> URL:
    """Return the URL with the psycopg 3 driver, for any spelling of `postgresql`."""
    return make_url(url).set(drivername="postgresql+psycopg")


def psycopg_dsn(url: str) -> str:
    """Return the URL as libpq understands it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


class Pulse:
    """Probe whether PostgreSQL reacts to a new session. It runs only while a caller waits.

    A PostgreSQL that hangs keeps its connections open. Only a new session distinguishes it from a
    busy one.
    """

    def __init__(self, url: str) -> None:
        self._dsn = psycopg_dsn(url)
        self._asking: asyncio.Task[None] | None = None
        self._silent_at = -float("inf")

    def ask(self) -> None:
        """Start the probe in the background, unless it is running."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(), name="postgres-pulse")

    def silent_since(self, moment: float) -> bool:
        """Return whether a session got no reaction after `moment`, a monotonic time."""
        return self._silent_at >= moment

    def found_silent(self) -> None:
        """Note that a new session got no reaction."""
        self._silent_at = monotonic()

    async def _ask(self) -> None:
        try:
            async with asyncio.timeout(limits.POSTGRES_PULSE_S):
                await (await AsyncConnection.connect(self._dsn, **_LIVENESS)).close()
        except TimeoutError:
            self.found_silent()
        except (psycopg.Error, OSError):
            pass  # a refusal is a reaction; each session reports its own error


class AnsweredConnection(AsyncConnection[Any]):
    """A connection whose statements fail while PostgreSQL hangs, instead of waiting without end.

    A statement that takes longer than `POSTGRES_SILENT_S` is waited for as long as PostgreSQL
    reacts to new sessions, for at most `silent_s_max`. After that the connection is closed, and
    OperationalError raised.
    """

    pulse: Pulse | None = None
    silent_s_max: float = float("inf")

    async def wait(
        self,
        gen: Any,
        interval: float = 0.1,
        timeout: float | None = None,  # noqa: ASYNC109 - psycopg's signature
    ) -> Any:
        """Wait for an answer, and check every `interval` seconds whether PostgreSQL hangs."""
        if self.pulse is None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(self._answered(gen, self.pulse), interval, timeout)
        except _Silent:
            self.pgconn.finish()
            raise psycopg.OperationalError("PostgreSQL does not answer") from None

    def _answered(self, gen: Generator[Any, Any, _T], pulse: Pulse) -> Generator[Any, Any, _T]:
        """Yield the waits of a generator, and give up between two of them."""
        asked_at = monotonic()
        suspect_at, give_up_at = asked_at + limits.POSTGRES_SILENT_S, asked_at + self.silent_s_max
        try:
            state = next(gen)
            while True:
                ready = yield state
                if not ready and (now := monotonic()) >= suspect_at:
                    if now >= give_up_at or pulse.silent_since(suspect_at):
                        raise _Silent
                    pulse.ask()
                state = gen.send(ready)
        except StopIteration as end:
            result: _T = end.value
            return result

    @classmethod
    async def open(cls, pulse: Pulse, *arguments: Any, silent_s_max: float, **options: Any) -> Self:
        """Connect within `POSTGRES_PULSE_S`. Raises OperationalError, at once after a recent failure."""
        if pulse.silent_since(monotonic() - limits.POSTGRES_SILENT_AGAIN_S):
            raise psycopg.OperationalError("PostgreSQL does not answer")
        try:
            async with asyncio.timeout(limits.POSTGRES_PULSE_S):
                connection = await cls.connect(*arguments, **options)
        except TimeoutError:
            pulse.found_silent()
            raise psycopg.OperationalError("PostgreSQL does not answer") from None
        connection.pulse, connection.silent_s_max = pulse, silent_s_max
        return connection


class _Silent(Exception):
    """Raised inside a wait if PostgreSQL does not answer."""


def create_engine(url: str, *, pool_size: int = 4) -> AsyncEngine:
    """Return a pool that notices when PostgreSQL is away or hangs, and recovers by itself."""
    pulse = Pulse(url)

    async def opened(*arguments: Any, **options: Any) -> AnsweredConnection:
        return await AnsweredConnection.open(
            pulse, *arguments, silent_s_max=limits.POSTGRES_SILENT_S_MAX, **options
        )

    return create_async_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_recycle=1_800,
        pool_timeout=5,
        hide_parameters=True,  # secrets are among them, and errors are logged
        connect_args={"options": _OPTIONS, "async_creator_fn": opened} | _LIVENESS,
    )


async def connect(url: str, **options: Any) -> AsyncConnection[Any]:
    """Open a connection outside the pool, in autocommit mode, for COPY and temporary tables.

    PostgreSQL plans each statement again: a plan for an empty table would stay while it grows.
    """
    return await AnsweredConnection.open(
        Pulse(url),
        psycopg_dsn(url),
        silent_s_max=float("inf"),
        autocommit=True,
        prepare_threshold=None,
        options=_OPTIONS,
        **(_LIVENESS | options),
    )
