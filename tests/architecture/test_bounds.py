"""Every bound has one home, which is the room that uses it."""

import ast
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

APP = Path("app")
ROOM_ORDER = (
    *("core", "jobs", "access", "webhooks", "experiments", "assignment", "feedback", "ledger", "responses"),
    *("reviews", "judging", "quality", "allocation"),
    *("analysis", "evaluation", "planning", "rollouts", "dashboard", "cli"),
)


class Bound(NamedTuple):
    name: str
    room: str
    value: str


def bounds_of(path: Path) -> list[Bound]:
    """Read the bounds that one `limits.py` defines."""
    return [
        Bound(statement.target.id, path.parent.name, ast.unparse(statement.value))
        for statement in ast.parse(path.read_text()).body
        if isinstance(statement, ast.AnnAssign)
        and isinstance(statement.target, ast.Name)
        and statement.value is not None
    ]


def all_bounds(app: Path = APP) -> list[Bound]:
    return [bound for path in sorted(app.glob("*/limits.py")) for bound in bounds_of(path)]


def rooms_by_word(app: Path = APP) -> dict[str, set[str]]:
    """Map each upper-case word of the code to its rooms; composition roots are the room ''."""
    rooms: dict[str, set[str]] = {}
    for path in app.rglob("*.py"):
        code = path.read_text()
        if path.name == "limits.py":  # the value of one bound may use another bound
            code = "\n".join(line.partition(": Final = ")[2].partition("#")[0] for line in code.splitlines())
        room = path.relative_to(app).parts[0] if path.parent != app else ""
        for word in re.findall(r"\b[A-Z][A-Z0-9_]+\b", code):
            rooms.setdefault(word, set()).add(room)
    return rooms


def misplaced(bounds: list[Bound], users: dict[str, set[str]]) -> list[str]:
    """Describe each bound that is unused, defined twice, or outside the room that needs it."""
    definitions = Counter(bound.name for bound in bounds)
    problems = [f"{name} is defined {count} times" for name, count in definitions.items() if count > 1]
    for bound in bounds:
        rooms = users.get(bound.name, set())
        named = sorted(rooms - {""}, key=ROOM_ORDER.index)
        if not rooms:
            problems.append(f"{bound.room}: {bound.name} is unused")
        elif len(named) in {1, 2} and bound.room not in {named[0], "core" if "" in rooms else named[0]}:
            problems.append(f"{bound.room}: {bound.name} belongs to {named[0]}")
        elif len(named) > 2 and bound.room not in {"core", named[0]}:
            problems.append(f"{bound.room}: {bound.name} belongs to core or {named[0]}")
    return problems


def test_every_bound_is_used_and_has_one_home() -> None:
    """`pytest -s` prints the table."""
    bounds = all_bounds()
    print("\n".join(f"{bound.room:12} {bound.name:32} {bound.value}" for bound in bounds))  # noqa: T201
    assert len(bounds) > 150
    assert misplaced(bounds, rooms_by_word()) == []


def test_a_planted_bound_is_found() -> None:
    planted = [
        Bound("UNUSED_MAX", "ledger", "1"),
        Bound("TWICE_MAX", "core", "1"),
        Bound("TWICE_MAX", "core", "1"),
        Bound("FOREIGN_MAX", "core", "1"),
    ]
    users = {"TWICE_MAX": {"core"}, "FOREIGN_MAX": {"rollouts", "ledger"}}
    assert misplaced(planted, users) == [
        "TWICE_MAX is defined 2 times",
        "ledger: UNUSED_MAX is unused",
        "core: FOREIGN_MAX belongs to ledger",
    ]
