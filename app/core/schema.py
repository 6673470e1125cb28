"""The revision of the schema that this version needs, found without Alembic, which loads slowly."""

from pathlib import Path
from typing import Final

_APP: Final = Path(__file__).parents[1]

FOLDER: Final = next(path for path in (_APP / "migrations", _APP.parent / "migrations") if path.is_dir())
"""Folder of the migrations: inside `app` in a wheel, beside it in a checkout."""


def revisions() -> list[str]:
    """Return the revisions that this version knows, oldest first, from the names of the files."""
    return sorted(path.name.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*_*.py"))


def lacking(current: str | None) -> str | None:
    """Say what a database at revision `current` lacks; None when this version can use it.

    A revision that this version does not know comes from a newer version. Its migrations that run
    before the code fit older code as well, so servers go on while a deployment is upgraded.
    """
    known = revisions()
    if current is None:
        return "the database has no schema: run `wald migrate`"
    if current in known and current != known[-1]:
        return f"the database is at revision {current}, this version needs {known[-1]}: run `wald migrate`"
    return None
