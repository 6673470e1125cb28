"""PostgreSQL: the schema's metadata, the connection pool, and how a transaction is opened."""

from typing import Any, Final

from psycopg import AsyncConnection
from sqlalchemy import URL, MetaData, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

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
    # A process that is stopped in a transaction loses its locks, sooner than others give up waiting for them.
    " -c idle_in_transaction_session_timeout=8000 -c timezone=UTC"
    # Our statements are short; compiling one takes longer than running it.
    " -c jit=off"
)

# Over a network, a server that does not answer any more is given up after about 10 s, not after minutes.
_LIVENESS: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def sqlalchemy_url(url: str) -> URL:
    """The URL with the psycopg 3 driver named, whatever spelling of `postgresql` it came with."""
    return make_url(url).set(drivername="postgresql+psycopg")


def psycopg_dsn(url: str) -> str:
    """The URL as libpq understands it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def create_engine(url: str, *, pool_size: int = 4) -> AsyncEngine:
    """A pool that notices when PostgreSQL was away and comes back by itself."""
    return create_async_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=pool_size,
        pool_pre_ping=True,
        pool_recycle=1_800,
        pool_timeout=5,
        hide_parameters=True,  # secrets are among them, and errors are logged
        connect_args={"options": _OPTIONS} | _LIVENESS,
    )


async def connect(url: str) -> AsyncConnection:
    """A connection of its own, in autocommit mode, for COPY and temporary tables.

    Statements are planned anew each time: a plan made for an empty table would stay while the table grows.
    """
    return await AsyncConnection.connect(
        psycopg_dsn(url), autocommit=True, prepare_threshold=None, options=_OPTIONS, **_LIVENESS
    )
