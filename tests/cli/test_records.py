"""One reader of files: the same numbers from every dialect, or an error that says where and what to do."""

import csv
import io
import os
import threading

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from app.cli import limits
from app.cli.analyze import analyze_command
from app.cli.files import logged, measurements, records
from app.cli.files.records import UnreadableLog, Wanted
from app.experiments.metrics import Mean, Metric

WANTED = Wanted(texts=("u", "v"), numbers=("m",), filled=("u", "v"))


def numbers(folder, text, wanted=WANTED, encoding="utf-8"):
    path = folder / "x.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode(encoding))
    return records.read(path, wanted).numbers["m"].tolist()


def refusal(folder, text, wanted=WANTED):
    with pytest.raises(UnreadableLog) as caught:
        numbers(folder, text, wanted)
    return str(caught.value)


def table(*cells, separator=";"):
    return "\n".join(
        [separator.join("uvm"), *(separator.join((f"x{n}", "a", c)) for n, c in enumerate(cells))]
    )


# Every dialect means the same

values = st.lists(
    st.one_of(
        st.floats(-1e6, 1e6).map(lambda x: round(x, 4)),
        st.integers(-(10**7), 10**7),
        st.none(),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def written(rows, *, separator, decimal, quoting, ending, thousands):
    """As a program would write these values in its dialect."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=separator, quoting=quoting, lineterminator=ending)
    writer.writerow(["u", "v", "note", "m"])
    for number, value in enumerate(rows):
        text = "" if value is None else str(value)
        if isinstance(value, float) and decimal == "comma":
            text = f"{value:,.4f}" if thousands else f"{value:.4f}"
            text = text.translate(str.maketrans(",.", ".,"))
        elif isinstance(value, float):
            text = f"{value:,.4f}" if thousands else f"{value:.4f}"
        writer.writerow([f"x{number}", "é" * (number % 2) + "a", 'said "no"; then, yes\nno', text])
    return out.getvalue()


@settings(max_examples=60)
@given(
    rows=values,
    separator=st.sampled_from(",;\t"),
    decimal=st.sampled_from(["point", "comma"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    ending=st.sampled_from(["\n", "\r\n"]),
    thousands=st.booleans(),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    prefix=st.sampled_from(["", "\n", "sep"]),
)
@example([950.5, 1234.0], ";", "comma", csv.QUOTE_MINIMAL, "\n", True, "utf-8", "")
def test_a_file_has_the_same_numbers_in_every_dialect(
    tmp_path_factory, rows, separator, decimal, quoting, ending, thousands, encoding, prefix
):
    text = written(
        rows, separator=separator, decimal=decimal, quoting=quoting, ending=ending, thousands=thousands
    )
    text = (f"sep={separator}{ending}" if prefix == "sep" else prefix) + text
    found = numbers(tmp_path_factory.mktemp("dialect"), text, encoding=encoding)
    expected = [np.nan if value is None else float(value) for value in rows]
    assert found == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["950,5", "1.234"], [950.5, 1234.0]),
        (["950.5", "1,234"], [950.5, 1234.0]),
        (["1.234,5", "2"], [1234.5, 2.0]),
        (["1.234.567", "1,5"], [1234567.0, 1.5]),
        (["0.123", "1.234"], [0.123, 1.234]),
        (["0,123", "1,234"], [0.123, 1.234]),
        (["1e3", "-2E-1", "+4"], [1000.0, -0.2, 4.0]),
        (["TRUE", "false", "True"], [1.0, 0.0, 1.0]),
        (["", "NA", "NULL", " null ", "3"], [np.nan] * 4 + [3.0]),
        ([" 5 ", "5."], [5.0, 5.0]),
    ],
)
@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimals_are_those_that_the_file_shows(tmp_path, cells, expected, separator):
    assert numbers(tmp_path, table(*cells, separator=separator)) == pytest.approx(expected, nan_ok=True)


def test_another_column_may_show_the_decimals(tmp_path):
    text = "u;v;m;n\na;x;1.234;0,5\nb;x;2.345;1,25\n"
    wanted = Wanted(texts=("u",), numbers=("m", "n"))
    assert numbers(tmp_path, text, wanted) == [1234.0, 2345.0]
    assert "may be 1.234 or 1234" in refusal(tmp_path, text, Wanted(texts=("u",), numbers=("m",)))


@pytest.mark.parametrize(("decimal", "expected"), [("point", 1.234), ("comma", 1234.0)])
def test_decimals_can_be_declared(tmp_path, decimal, expected):
    assert numbers(tmp_path, table("1.234"), Wanted(texts=("u",), numbers=("m",), decimal=decimal)) == [
        expected
    ]


def test_in_a_file_of_commas_a_point_is_a_decimal_point(tmp_path):
    assert numbers(tmp_path, table("1.234", "2.345", separator=",")) == [1.234, 2.345]


def test_a_pipe_is_read_once(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_text, args=(table("1", "2,5"),))
    writer.start()
    assert records.read(path, WANTED).numbers["m"].tolist() == [1.0, 2.5]
    writer.join()


# What is wrong is named


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("u;v;m\n", "line 1: a header without rows"),
        ("u;v;m\n;;\n\n", "line 1: a header without rows"),
        ("u|v|m\na|b|1\n", "cells must be separated by commas, semicolons or tabs"),
        ("u;v;M\na;b;1\n", "line 1: no column 'm'; there are u, v, M; did you mean 'M'?"),
        ("unit;v;metric\n", "line 1: no column 'u'"),
        ("u;v;m;m\na;b;1;2\n", "line 1: 2 columns are called 'm'; rename one"),
        ("u;v;m\na;b\n", "line 2: has 2 cells, the header has 3"),
        (
            "u,v,m\na,b,950,5\n",
            "line 2: has 4 cells, the header has 3: a cell that holds the separator needs quotes",
        ),
        ("u;v;m\na;;1\n", "line 2, column 'v': is empty"),
        ('u;v;m\na;"b;1\n', "line 2: unexpected end of data; is a quote missing?"),
        (table("1", "ten"), "line 3, column 'm': 'ten' is not a number"),
        (table("1", "NaN"), "line 3, column 'm': 'NaN' is not finite; leave the cell empty"),
        (table("-inf"), "line 2, column 'm': '-inf' is not finite"),
        (table("1e160"), "line 2, column 'm': 1e160 is out of range"),
        (table("1e400"), "line 2, column 'm': 1e400 is out of range"),
        (table("1e-200"), "line 2, column 'm': 1e-200 is out of range"),
        (
            table("950,5", "3.5"),
            "line 2, column 'm': '950,5' has a decimal comma, but '3.5' (line 3, column 'm')",
        ),
        (table("1.234"), "line 2, column 'm': '1.234' may be 1.234 or 1234, and no other number shows which"),
        (table("1,234", "5"), "line 2, column 'm': '1,234' may be 1234 or 1.234"),
        (table("1 234,5"), "line 2, column 'm': '1 234,5' is not a number; write 1234,5"),
        (table("12%"), "line 2, column 'm': '12%' is not a number; write 12"),
        (table("1_000"), "line 2, column 'm': '1_000' is not a number; write 1000"),
        (table("0x10"), "line 2, column 'm': '0x10' is not a number"),
        (b"u;v;m\na;b;1\nc;\xe9;2\n", "line 3: not UTF-8 (byte 0xE9); save the file as UTF-8"),
        (b"u;v;m\na;b;1\0\n", "line 2: not text"),
        (b"PK\x03\x04rest", "is a spreadsheet or zip file; save it as CSV"),
        (b"\x1f\x8brest", "is compressed; unpack it first"),
    ],
)
def test_what_is_wrong_with_a_file_is_named_with_its_fix(tmp_path, text, expected):
    assert expected in refusal(tmp_path, text)


def test_conditions_that_no_row_meets_show_what_there_is(tmp_path):
    text = "u;v;m\na;gpt-4o;1\nb;claude;2\n"
    wrong = Wanted(numbers=("m",), where=(("v", "gpt-4"),))
    assert refusal(tmp_path, text, wrong) == (
        "column 'v': no row has v=gpt-4; there are 'gpt-4o', 'claude'; did you mean 'gpt-4o'?"
    )
    together = Wanted(numbers=("m",), where=(("v", "claude"), ("u", "a")))
    assert "no row has u=a" in refusal(tmp_path, text, together)
    assert numbers(tmp_path, text, Wanted(numbers=("m",), where=(("v", " claude "),))) == [2.0]


def test_lines_are_those_of_an_editor_after_cells_of_several_lines(tmp_path):
    text = 'u;v;m\n"a\nb\nc";x;1\nd;x;bad\n'
    assert refusal(tmp_path, text).startswith("line 5, column 'm': 'bad'")


def test_a_cell_may_be_as_long_as_an_answer_of_a_model(tmp_path):
    long = "word " * 100_000
    assert numbers(tmp_path, f'u;v;m;text\na;b;1;"{long}"\n') == [1.0]
    assert len(long) < limits.CELL_CHARS_MAX


def test_parquet_is_read_like_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "x.parquet"
    columns = {"u": ["a", "b", "c"], "v": ["x", "y", "y"], "m": [1.234, None, 2.0], "ok": [True, False, None]}
    parquet.write_table(pyarrow.table(columns), path)
    found = records.read(path, Wanted(texts=("u", "v"), numbers=("m", "ok")))
    assert found.texts["v"] == ("x", "y", "y")
    assert found.numbers["m"].tolist() == pytest.approx([1.234, np.nan, 2.0], nan_ok=True)
    assert found.numbers["ok"].tolist() == pytest.approx([1.0, 0.0, np.nan], nan_ok=True)


def test_replay_and_analyze_read_the_same_file_alike(tmp_path):
    path = tmp_path / "x.csv"
    rows = [f"u{n};t{n // 2}; {'ab'[n % 2]} ;{n % 7},5" for n in range(400)]
    rows += ["u900;t900;a;NA", "u901;t900;b;1.000,5"]
    path.write_text("\ufeffunit;task;model;score\r\n" + "\r\n".join(rows), encoding="utf-8")
    log = logged.read(path, logged.Columns(variant="model", reward="score", task="task"), scale=(0, 2_000))
    assert (log.incomplete, len(log.tasks)) == (1, 200)
    metric = Metric(key="score", measure=Mean("score"), role="primary")
    read = measurements.read(path, measurements.Table(unit="unit", variant="model", metrics=(metric,)))
    assert log.variants == read.observed.variants == ("a", "b")
    totals = [read.observed.totals("score", variant) for variant in "ab"]
    assert [one.n for one in totals] == [200, 201]
    complete = (totals[1].mean * 201 - 1000.5) / 200
    assert [mean * 2_000 for mean in log.means] == pytest.approx([totals[0].mean, complete])


@pytest.mark.parametrize("option", [("--where", "v=zz"), ("--unit", "U")])
def test_the_command_says_it_in_one_sentence(tmp_path, option):
    path = tmp_path / "x.csv"
    path.write_text(table("1", "2"))
    arguments = [str(path), "--unit", "u", "--variant", "v", "--metric", "m", *option]
    found = CliRunner().invoke(analyze_command, arguments, env={"COLUMNS": "200"})
    assert found.exit_code == 1
    assert "Traceback" not in found.output
    assert "x.csv" in found.output
