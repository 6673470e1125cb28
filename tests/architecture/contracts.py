"""The order inside a room, as checks on a map of imports.

A room is a folder of `app/`. The last word of a file's name says its role: `kill_store.py` is a
store. A file with any other name is a model: it must be pure. So a new file is pure until its name
says that it is not.
"""

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import Final

Imports = Mapping[str, AbstractSet[str]]
"""The modules that each module of `app` imports, libraries included."""

LEVELS: Final = ("model", "tables", "step", "store", "service", "consumer", "entry")
ROLES: Final = {
    "entry": {"routes", "path", "loop", "changes", "watch"},
    "consumer": {"consumer"},
    "service": {
        *("service", "client", "commit", "dispatch", "gauges", "guards", "holder", "judge", "keeper"),
        *("pages", "refusals", "saver", "sender", "switch"),
    },
    "store": {"store", "file", "lag", "outbox", "rebuild", "resize", "stream"},
    "step": {"step", "cells", "lease", "scope", "session", "sweep", "transaction"},
    "tables": {"tables"},
}
ENGINES: Final = {"redis", "psycopg", "sqlalchemy"}
IMPURE: Final = ENGINES | {"asyncio", "litestar", "random", "time"}
ROOTS: Final = {"app.server", "app.worker", "app.up", "app.start"}
OUTSIDE_ROOMS: Final = ("app.core", "app.cli")


def room(module: str) -> str | None:
    """Return the room of a module; None for `core`, commands, composition roots and libraries."""
    package = ".".join(module.split(".")[:2])
    inside = module.startswith("app.") and package not in {*ROOTS, *OUTSIDE_ROOMS}
    return package if inside else None


def level(module: str) -> str:
    """Return the role of a module of a room."""
    word = module.rpartition(".")[2].rpartition("_")[2]
    return next((role for role, words in ROLES.items() if word in words), "model")


def climbs(imports: Imports) -> Iterator[str]:
    """Yield imports of a module that stands higher in the same room, or of another entry of it."""
    for module, imported in imports.items():
        for other in imported:
            if room(module) is None or room(module) != room(other) or module == other:
                continue
            height, target = LEVELS.index(level(module)), LEVELS.index(level(other))
            if target > height or target == height == LEVELS.index("entry"):
                yield f"{module} ({level(module)}) imports {other} ({level(other)})"


def shared_entries(imports: Imports) -> Iterator[str]:
    """Yield imports of a room's entries by another room: only composition roots may import them."""
    for module, imported in imports.items():
        for other in imported:
            if room(other) and level(other) == "entry" and room(module) not in {None, room(other)}:
                yield f"{module} imports {other}"


def engine_imports(imports: Imports) -> Iterator[str]:
    """Yield direct imports of an engine by a module of a room that is no store, step or tables."""
    for module, imported in imports.items():
        if room(module) and level(module) not in {"store", "step", "tables"}:
            for engine in sorted(ENGINES & imported):
                yield f"{module} ({level(module)}) imports {engine}"


def impurities(imports: Imports) -> Iterator[str]:
    """Yield what a model imports that a pure module may not, also through other modules."""
    for module in imports:
        if room(module) and level(module) == "model":
            for impure in sorted(IMPURE & reachable(imports, module)):
                yield f"{module} reaches {impure}"


def reachable(imports: Imports, module: str) -> set[str]:
    """Return all modules that a module imports, directly or not."""
    reached: set[str] = set()
    waiting = [module]
    while waiting:
        for other in imports.get(waiting.pop(), set()) - reached:
            reached.add(other)
            waiting.append(other)
    return reached
