"""Errors that mean that an engine is away. They need no traceback in the log."""

from typing import Final

import psycopg
from redis.exceptions import RedisError
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.core.errors import WaldError

_POSTGRES: Final = (
    OperationalError,
    InterfaceError,
    PoolTimeout,
    psycopg.OperationalError,
    psycopg.InterfaceError,
)

ENGINE_ERRORS: Final = (*_POSTGRES, RedisError)
POSTGRES_AWAY: Final = (*_POSTGRES, OSError, TimeoutError)
"""PostgreSQL does not answer, so other calls would fail too."""
OUTAGES: Final = (*ENGINE_ERRORS, OSError, TimeoutError)
POSTGRES_ERRORS: Final = (SQLAlchemyError, psycopg.Error, OSError, TimeoutError)
"""All errors of a call of PostgreSQL, refused statements too."""
VALKEY_ERRORS: Final = (RedisError, OSError)


def is_expected(error: BaseException) -> bool:
    """Return whether an outage or the configuration caused an error, not a fault in our code."""
    return isinstance(error, (*OUTAGES, WaldError))
