"""What every command shows at several widths, with any names and numbers."""

import re

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from app.cli.terminal import PIPE_COLUMNS
from tests.cli.screens import GOLDEN, WIDTHS, Made, golden, screens, shown
from tests.cli.test_tables import NAMES

PICTURES = re.compile(r"[▁▂▃▄▅▆▇█━]")


@pytest.mark.parametrize("width", WIDTHS)
def test_screens_are_as_in_the_golden_files(width):
    """`python -m tests.cli.screens` writes them anew after a wanted change."""
    assert golden(width) == (GOLDEN / f"{width}.txt").read_text(encoding="utf-8")


@settings(max_examples=15, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(
    names=st.lists(NAMES, min_size=2, max_size=4, unique=True),
    metric=NAMES,
    units=st.integers(1, 10**12),
    value=st.floats(-1e12, 1e12),
    effect=st.floats(-1e6, 1e6),
    width=st.integers(60, 200),
)
def test_no_screen_is_wider_than_the_terminal_whatever_the_names_and_numbers(
    names, metric, units, value, effect, width
):
    for screen in screens(Made(names, metric, units, value, effect)).values():
        text = shown(screen, width)
        assert all(cell_len(line) <= width for line in text.split("\n"))
        assert "\x1b" not in text


def test_in_a_pipe_every_row_is_one_line_and_nothing_is_left_out():
    names = ("control", "x" * 300, "short")
    for screen in screens(Made(names)).values():
        text = shown(screen, PIPE_COLUMNS)
        assert "…" not in text or "/" in text  # secrets in URLs are hidden on purpose
        assert all(not line.startswith("x" * 10) or len(line.split()) > 1 for line in text.splitlines())


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_numbers_stand_before_pictures(width):
    for screen in screens(Made()).values():
        for line in shown(screen, width).splitlines():
            if found := PICTURES.search(line):
                assert not re.search(r"\d", line[found.start() :])
