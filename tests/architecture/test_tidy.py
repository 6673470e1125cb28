"""The text of the product keeps the rules of plain English that a program can check."""

import tomllib
from collections import Counter

import pytest

from tests.architecture.tidy import BASELINE, ROOT, all_violations, violations


def test_each_file_has_at_most_its_allowed_violations() -> None:
    allowed = tomllib.loads(BASELINE.read_text())
    counts = Counter(violation.path for violation in all_violations())
    above = {path: count for path, count in counts.items() if count > allowed.get(path, 0)}
    assert not above, "see `python -m tests.architecture.tidy PATH`"


LONG = "a word " * 18

PLANTED = [
    ("app/x.py", '"""Module."""\n# It is told later.\n', "words"),
    ("app/x.py", 'raise Error(f"{key} is no bound")\n', "words"),
    ("app/x.py", "async def test_nobody_waits(): ...\n", "words"),
    ("docs/x.md", "Whoever\nreads this.\n", "words"),
    ("app/x.sql", "-- Rows of which\n-- one is new.\nSELECT 1\n", "words"),
    ("app/x.html", "<p>Do it anew.</p>\n", "words"),
    ("app/x.py", "for found in rows: ...\n", "names"),
    ("app/x.py", "def f(one): ...\n", "names"),
    ("app/x.py", 'def f():\n    """Of the parser."""\n', "fragments"),
    ("app/x.py", 'def f():\n    """The parser of lines."""\n', "fragments"),
    ("app/x.py", 'def f():\n    """P(a > b) at n = 3."""\n', "fragments"),
    ("app/x.py", 'class A:\n    """For the difference."""\n', "fragments"),
    ("app/x.py", 'class A:\n    @property\n    def b(self):\n        """Of both."""\n', "fragments"),
    ("app/x.py", f'"""A module.\n\n{LONG}.\n"""\n', "sentences"),
    ("app/x.py", f"# {LONG[:70]}\n# {LONG[:70]}\nx = 1\n", "sentences"),
    ("app/x.py", f'raise Error("{LONG}")\n', "sentences"),
    ("docs/x.md", f"{LONG}\n", "sentences"),
    ("docs/x.md", f"* {LONG}\n", "sentences"),
    ("app/x.lua", f"-- {LONG[:70]}\n-- {LONG[:70]}\n", "sentences"),
    ("docs/x.md", "word. " * 18 + "\n", "columns"),
    ("app/x.py", f"# {'word. ' * 18}\n", "columns"),
    ("app/x.py", f'"""A {"word. " * 18}"""\n', "columns"),
]


@pytest.mark.parametrize(("path", "text", "kind"), PLANTED)
def test_finds_a_planted_violation(path: str, text: str, kind: str) -> None:
    assert kind in {violation.kind for violation in violations(path, text)}


FREE = [
    ("app/x.py", 'def f():\n    """Return whether the key is no longer valid."""\n'),
    ("app/x.py", 'class A:\n    @property\n    def b(self):\n        """Whether it ran."""\n'),
    ("app/x.py", "x = '#told'  # as `told` says\n"),
    ("app/x.py", '"""The parser.\n\n    a formula   0.1   0.2   0.3\n"""\n'),
    ("app/x.sql", f"SELECT '{'word ' * 30}'\n"),
    ("docs/x.md", f"| {LONG} | told |\n".replace("told", "x")),
    ("docs/x.md", f"```\n{'word ' * 30}\n```\n"),
    ("docs/x.md", "* one\n* two\n" + "* three\n" * 40),
    ("docs/x.md", f"There is no key. {LONG[:60]}. {LONG[:20]}.\n"),
]


@pytest.mark.parametrize(("path", "text"), FREE)
def test_allows_what_keeps_the_rules(path: str, text: str) -> None:
    assert violations(path, text) == []


def test_reports_the_line_of_a_violation() -> None:
    listed = violations("docs/x.md", f"Fine.\n\nFine. {LONG[:50]}\n{LONG}\n")
    assert [(violation.line, violation.kind) for violation in listed] == [
        (3, "sentences"),
        (4, "columns"),
    ]


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 700
