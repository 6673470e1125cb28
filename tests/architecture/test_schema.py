"""The migrations and the tables in the code are one schema."""

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, create_engine, inspect, text

import app.access.tables
import app.allocation.tables
import app.analysis.tables
import app.assignment.tables
import app.core.agreement
import app.core.timekeeping
import app.experiments.tables
import app.judging.tables
import app.ledger.tables
import app.responses.tables
import app.reviews.tables
import app.rollouts.tables
import app.webhooks.tables  # noqa: F401  (each adds its tables to the metadata)
from app.core import migrations
from app.core.postgres import METADATA, sqlalchemy_url

pytestmark = pytest.mark.anyio


def differences(connection: Connection) -> list[object]:
    return compare_metadata(MigrationContext.configure(connection), METADATA)


def check_constraints(connection: Connection) -> set[str]:
    """Alembic does not compare these."""
    rows = connection.execute(
        text("SELECT conname FROM pg_constraint WHERE contype = 'c' AND conname LIKE 'ck\\_%'")
    )
    return {row[0] for row in rows}


async def test_migrating_from_empty_gives_the_tables_of_the_code(database_url: str) -> None:
    with create_engine(sqlalchemy_url(database_url)).connect() as connection:
        assert differences(connection) == []
        declared = {
            str(constraint.name)
            for table in METADATA.tables.values()
            for constraint in table.constraints
            if str(constraint.name).startswith("ck_")
        }
        assert check_constraints(connection) == declared


async def test_down_and_up_again_comes_to_the_same_schema(database_url: str) -> None:
    migrations.downgrade(database_url, "base")
    engine = create_engine(sqlalchemy_url(database_url))
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    assert migrations.upgrade(database_url) == migrations.head()
    with engine.connect() as connection:
        assert differences(connection) == []


def test_every_migration_says_whether_it_runs_before_or_after_the_code() -> None:
    scripts = ScriptDirectory("migrations")
    for revision in scripts.walk_revisions():
        name = revision.path.rpartition("/")[2]
        assert name.split("_")[1] in {"before", "after"}, name
