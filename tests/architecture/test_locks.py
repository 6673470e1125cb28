"""All advisory locks have their keys in `core/locks.py`."""

import ast
import re
from pathlib import Path

LOCKS = Path("app/core/locks.py")


def test_no_other_file_names_an_advisory_lock_function_of_postgresql() -> None:
    """The migration lock is taken by `core/migrations.py`, with the key of `core/locks.py`."""
    allowed = {LOCKS, Path("app/core/migrations.py")}
    files = [path for folder in ("app", "migrations") for path in Path(folder).rglob("*.*")]
    naming = {path for path in files if path.suffix in {".py", ".sql"} and "pg_advisory" in path.read_text()}
    assert naming == allowed


def test_no_two_locks_of_one_key_space_share_a_number() -> None:
    one_number, classes = LOCKS.read_text().split("# A class")
    for space in (one_number, classes):
        numbers = [ast.literal_eval(number) for number in re.findall(r"= (0x[0-9A-F]+)", space)]
        assert len(numbers) == len(set(numbers)) >= 3
