"""Alembic's entry: `wald migrate` passes an open connection, the command line a URL."""

from alembic import context
from sqlalchemy import Connection, create_engine

import app.access.tables
import app.allocation.tables
import app.analysis.tables
import app.assignment.tables
import app.core.agreement
import app.core.timekeeping
import app.experiments.tables
import app.ledger.tables
import app.responses.tables
import app.webhooks.tables  # noqa: F401  (each adds its tables to the metadata)
from app.core.postgres import METADATA, sqlalchemy_url
from app.core.settings import Settings


def _run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=METADATA, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


def _main() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        _run(connection)
        return
    url = Settings.load().database_url
    if url is None:
        raise SystemExit("set WALD_DATABASE_URL, or use `wald migrate`")
    with create_engine(sqlalchemy_url(url)).connect() as own:
        _run(own)


_main()
