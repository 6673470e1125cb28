"""Which errors mean that an engine is away: they say everything in one line, and a traceback adds nothing."""

from typing import Final

import psycopg
from redis.exceptions import RedisError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from app.core.errors import WaldError

ENGINE_ERRORS: Final = (
    OperationalError,
    InterfaceError,
    PoolTimeout,
    psycopg.OperationalError,
    psycopg.InterfaceError,
    RedisError,
)


def is_expected(error: BaseException) -> bool:
    """Whether an error tells of an outage or of the configuration, and not of a fault in our code."""
    return isinstance(error, (*ENGINE_ERRORS, WaldError, OSError, TimeoutError))
