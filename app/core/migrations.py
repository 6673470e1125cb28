"""Migrations: bring a database to the schema that this version needs."""

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, func, select

from app.core import locks
from app.core.postgres import sqlalchemy_url
from app.core.schema import FOLDER


def upgrade(database_url: str, revision: str = "head") -> str:
    """Migrate to `revision` and return it; safe to run from several processes at once."""
    with _connection(database_url) as connection:
        command.upgrade(_config(connection), revision)
        connection.commit()
        return current(connection) or ""


def downgrade(database_url: str, revision: str) -> None:
    """Go back to `revision` (`base`: an empty schema)."""
    with _connection(database_url) as connection:
        command.downgrade(_config(connection), revision)
        connection.commit()


def head() -> str:
    """Return the revision that this version needs."""
    return ScriptDirectory(str(FOLDER)).get_current_head() or ""


def current(connection: Connection) -> str | None:
    """Return the revision of a database; None if it is empty."""
    return MigrationContext.configure(connection).get_current_revision()


def _config(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    return config


class _connection:  # noqa: N801
    """A connection that holds the migration lock."""

    def __init__(self, database_url: str) -> None:
        self._engine = create_engine(sqlalchemy_url(database_url), connect_args={"connect_timeout": 10})

    def __enter__(self) -> Connection:
        self._connection = self._engine.connect()
        self._connection.execute(select(func.pg_advisory_lock(locks.MIGRATION)))
        self._connection.commit()
        return self._connection

    def __exit__(self, *_: object) -> None:
        self._connection.close()  # ends the session, and with it the lock
        self._engine.dispose()
