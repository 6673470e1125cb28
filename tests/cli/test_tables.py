"""Tables fit every terminal: numbers are whole, lines are not too wide, names that differ look different."""

import unicodedata

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from app.cli.display import amounts
from app.cli.display.tables import Column, Picture, Table, folded, labels, shortened, visible, width_of

NAMES = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="日本語中文한국어🙂👨‍👩‍👧é\u0301", max_size=60),
    st.sampled_from(
        ["[bold]x[/]", "\x1b[31mred\x1b[0m", "a\nb", "a\rb", "\t", "", " ", "a", "a ", "…", "\u202eabc"]
    ),
    st.builds(lambda middle: f"{'x' * 80}{middle}{'y' * 80}", st.integers(0, 99)),
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
NUMBERS = st.one_of(
    st.builds(amounts.number, FLOATS),
    st.builds(lambda v: amounts.number(v, signed=True), FLOATS),
    st.builds(lambda low, high: amounts.interval((low, high)), FLOATS, FLOATS),
    st.builds(lambda low, high: amounts.percent_interval((low, high), signed=True), FLOATS, FLOATS),
    st.builds(lambda low, high: amounts.points_interval((low, high)), st.floats(-1, 1), st.floats(-1, 1)),
    st.builds(amounts.p_value, st.floats(0, 1)),
    st.builds(amounts.count, st.integers(0, 10**15)),
)


def characters(text: str) -> int:
    """What a terminal needs for a text, counted by the Unicode database and not by the code under test."""
    return sum(
        0 if unicodedata.category(c) in {"Mn", "Me", "Cf"} else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in text
    )


@st.composite
def tables(draw):
    numbers = draw(st.integers(1, 8))
    headings = draw(
        st.lists(
            st.sampled_from(["units", "95% interval", "smallest effect found", ""]),
            min_size=numbers,
            max_size=numbers,
        )
    )
    kinds = draw(st.sampled_from([("name",), ("name", "name"), ()]))
    columns = [Column("variant", kind) for kind in kinds] + [Column(heading) for heading in headings]
    columns += draw(
        st.sampled_from([[], [Column("verdict", "text")], [Column("v", "text"), Column("over time")]])
    )
    table = Table(*columns)
    for _ in range(draw(st.integers(0, 5))):
        cells = [draw(NAMES) for _ in kinds] + [draw(NUMBERS) for _ in range(numbers)]
        rest = columns[len(cells) :]
        cells += [draw(NAMES) for column in rest if column.kind == "text"]
        cells += [Picture(lambda width: "▁" * width, 5, 40) for column in rest if column.kind == "number"]
        table.add(*cells)
    return table


@settings(max_examples=100, phases=[Phase.explicit, Phase.generate])
@given(tables(), st.integers(60, 200))
def test_no_line_is_wider_than_the_terminal_and_every_number_is_whole(table, width):
    lines = [line.plain for line in table.lines(width)]
    assert all(cell_len(line) <= width and characters(line) <= width for line in lines)
    assert all(line == line.rstrip(" ") for line in lines)
    assert all(unicodedata.category(c) not in {"Cc", "Cs"} for line in lines for c in line)
    pieces = " ".join(lines).split()
    for row in table.rows:
        for column, cell in zip(table.columns, row, strict=True):
            if column.kind == "number" and isinstance(cell, str):
                assert all(piece in pieces for piece in cell.split())


@settings(max_examples=100, phases=[Phase.explicit, Phase.generate])
@given(st.lists(NAMES, min_size=2, max_size=6, unique=True), st.integers(60, 120))
@example(names=["x" * 90 + str(number) + "y" * 90 for number in range(3)], width=60)
@example(names=["a", "a ", "a\xa0", " a"], width=80)
@example(names=["é", "e\u0301"], width=80)
@example(names=["", " "], width=80)
def test_names_that_differ_look_different(names, width):
    table = Table(Column("variant", "name"), Column("units"), Column("95% interval"))
    for number, name in enumerate(names):
        table.add(name, str(number), "+0.001 to +0.002")
    looks: dict[str, str] = {}
    for line in table.lines(width)[1:]:
        rest = line.plain.split()
        if "to" in rest:
            number = rest[-4] if len(rest) >= 4 else ""
            looks[number] = line.plain[: line.plain.rindex("+0.001")].rstrip()[: -len(number)].strip()
            last = number
        else:
            looks[last] += line.plain.strip()
    assert len(looks) == len(names)
    seen = [" ".join(unicodedata.normalize("NFKC", look).split()) for look in looks.values()]
    assert len(set(seen)) == len(names)


@given(NAMES, st.integers(2, 40))
def test_a_folded_name_is_complete_and_a_short_one_fits(name, width):
    look = visible(name)
    assert "".join(folded(look, width)) == look
    assert all(width_of(line) <= width for line in folded(look, width))
    assert width_of(shortened(look, width)) <= width


def test_numbers_come_before_pictures_and_pictures_go_first():
    table = Table(Column("variant", "name"), Column("units"), Column("over time"))
    table.add("control", "12,345", Picture(lambda width: "▁" * width, 8, 30))
    assert "▁" * 30 in table.lines(80)[1].plain
    assert "▁" * 8 in table.lines(26)[1].plain
    assert "▁" not in table.lines(22)[1].plain
    assert "12,345" in table.lines(22)[1].plain


def test_columns_without_room_follow_below_beside_the_names_again():
    table = Table(Column("variant", "name"), *map(Column, ("first number", "second number", "third")))
    table.add("control", "1" * 20, "2" * 20, "3" * 20)
    assert [line.plain.split() for line in table.lines(62)] == [
        ["variant", "first", "number", "second", "number"],
        ["control", "1" * 20, "2" * 20],
        [],
        ["variant", "third"],
        ["control", "3" * 20],
    ]


def test_what_a_terminal_would_obey_is_written_out():
    assert visible("a\x1b[31m\n\u202e\U000e0001") == r"a\x1b[31m\x0a\u202e\U000e0001"
    assert labels(["a", "a ", "b"]) == ["'a'", "'a '", "b"]


def test_styles_of_cells_stay_and_markup_means_nothing():
    table = Table(Column("", "text"))
    table.add(Text("[bold]ok", style="green"))
    (_, line) = table.lines(80)
    assert line.plain == "[bold]ok"
    assert line.spans[0].style == "green"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "n/a"),
        (0.12345, "0.1235"),
        (1_234.5, "1,234"),
        (12_345.6, "12,346"),
        (1e20, "1e+20"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_are_written_with_four_digits_or_whole(value, text):
    assert amounts.number(value) == text


def test_units_of_amounts():
    assert amounts.percent(0.0123, signed=True) == "+1.2%"
    assert amounts.points(0.0123) == "+1.23 pp"
    assert amounts.points_interval((0.001, None)) == "+0.10 to inf pp"
    assert (amounts.p_value(0.00001), amounts.p_value(0.0123)) == ("<0.0001", "0.012")
