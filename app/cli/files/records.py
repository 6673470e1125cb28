"""The one reader of files with a row per measurement: CSV as tools and spreadsheets write it, or Parquet.

Every command that reads a file uses it, so a file means the same everywhere. Cells are separated by commas,
semicolons or tabs, whichever separates the header. Numbers have a decimal point or a decimal comma. Which one
is decided for the whole file, and a file that does not show it is refused.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
import rich_click as click

from app.cli import limits
from app.core.choices import nearest
from stats.totals import FloatArray

Decimal = Literal["auto", "point", "comma"]
"""What separates whole units from parts of one in numbers; *auto*: what the file shows."""

_SEPARATORS: Final = ",;\t"
MISSING: Final = ("", "NA", "NULL", "null")
"""A cell that holds no value: empty, or as R and SQL write it."""
_TRUTHS: Final = {"true": "1", "false": "0"}
_FORMATS: Final = {
    b"PK\x03\x04": "a spreadsheet or zip file; save it as CSV",
    b"\x1f\x8b": "compressed; unpack it first",
}
_PARQUET: Final = b"PAR1"
_ENCODINGS: Final = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}
_UNDECODED: Final = re.compile("[\udc80-\udcff]")

# Whole numbers, and powers of ten, look alike with both decimal separators.
_NEUTRAL: Final = re.compile(r"[+-]?[0-9]+([eE][+-]?[0-9]+)?")
_WITH_POINT: Final = re.compile(
    r"[+-]?([0-9]+\.[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?"
)
_WITH_COMMA: Final = re.compile(
    r"[+-]?([0-9]+,[0-9]*|,[0-9]+)([eE][+-]?[0-9]+)?|[+-]?[0-9]{1,3}(\.[0-9]{3})+(,[0-9]*)?"
)
_SEPARATOR_LINE: Final = re.compile(r"sep=.?", re.IGNORECASE)
_NOT_FINITE: Final = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)


class UnreadableLog(Exception):
    """The file cannot be used. The message names line, column, value and fix."""


@contextmanager
def in_words(path: Path) -> Iterator[None]:
    """Raise UnreadableLog again as a ClickException that names the file."""
    try:
        yield
    except UnreadableLog as error:
        raise click.ClickException(f"{path}: {error}") from error


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which columns to read: `texts` as they are, `numbers` as numbers; only rows where `where` holds.

    Cells of `filled` must not be empty. Columns of `optional` may be absent.
    """

    texts: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    optional: frozenset[str] = frozenset()
    where: tuple[tuple[str, str], ...] = ()
    filled: tuple[str, ...] = ()
    decimal: Decimal = "auto"


class Records(msgspec.Struct, frozen=True):
    """The rows that were read: the line of each, and the wanted columns. A number that is missing is NaN."""

    lines: tuple[int, ...]
    texts: Mapping[str, tuple[str, ...]]
    numbers: Mapping[str, FloatArray]


class _Row(NamedTuple):
    line: int
    cells: Sequence[str]


class _Cell(NamedTuple):
    line: int
    column: str
    text: str

    @property
    def place(self) -> str:
        return f"line {self.line}, column {self.column!r}"


def read(path: Path, wanted: Wanted) -> Records:
    """Read the wanted columns of a file; `path` may be a pipe.

    An empty cell, NA or NULL is a missing number. True and false are 1 and 0. Empty lines, and blanks around
    cells, are ignored.

    Raises UnreadableLog for a file that is empty, is not text, has no rows or none that was asked for; a
    column that is missing or not unique; a row of another length than the header; cells that are not numbers,
    not finite or out of range; and numbers whose decimal separator is unclear. Raises OSError if there is no
    file.
    """
    with path.open("rb") as file:
        start = file.peek(4)[:4]
        if start == _PARQUET:
            header, rows, separator = _parquet(file, wanted)
        else:
            header, rows, separator = _text(file, start)
        wanted = _within(header, wanted)
        at = _positions(header, wanted, separator)
        chosen = list(_chosen(rows, at, wanted, len(header)))
    texts = {name: tuple(row.cells[at[name]].strip() for row in chosen) for name in wanted.texts}
    columns = {
        name: [_Cell(row.line, name, row.cells[at[name]].strip()) for row in chosen]
        for name in wanted.numbers
    }
    decimal = _decimal(columns, wanted.decimal, separator)
    numbers = {name: np.array([_number(cell, decimal) for cell in cells]) for name, cells in columns.items()}
    return Records(tuple(row.line for row in chosen), texts, numbers)


# From bytes to rows


def _text(file: IO[bytes], start: bytes) -> tuple[list[str], Iterator[_Row], str]:
    for magic, what in _FORMATS.items():
        if start.startswith(magic):
            raise UnreadableLog(f"is {what}")
    encoding = next((name for mark, name in _ENCODINGS.items() if start.startswith(mark)), "utf-8")
    errors = "surrogateescape" if encoding.startswith("utf-8") else "strict"
    lines = _lines(TextIOWrapper(file, encoding=encoding, errors=errors, newline=""))
    # Excel may name its separator on a line of its own, as in `sep=;`.
    head = (
        (line, text) for line, text in lines if text.strip() and not _SEPARATOR_LINE.fullmatch(text.strip())
    )
    line, first = next(head, (0, ""))
    if not first:
        raise UnreadableLog("is empty: it needs a header and rows")
    unquoted = re.sub(r'"[^"]*"', "", first)
    separator = max(_SEPARATORS, key=unquoted.count)
    rows = _parsed(chain([first], (text for _, text in lines)), separator, before=line - 1)
    header = [cell.strip() for cell in next(rows).cells]
    return header, rows, separator


def _lines(file: TextIOWrapper) -> Iterator[tuple[int, str]]:
    """Yield lines with their numbers."""
    number = 0
    try:
        for number, line in enumerate(file, start=1):
            if not line.isascii() and (found := _UNDECODED.search(line)) is not None:
                byte = ord(found.group()) - 0xDC00
                raise UnreadableLog(f"line {number}: not UTF-8 (byte 0x{byte:02X}); save the file as UTF-8")
            if "\0" in line:
                raise UnreadableLog(f"line {number}: not text, it holds a byte 0; save the file as CSV")
            yield number, line
    except UnicodeError as error:
        raise UnreadableLog(f"line {number + 1}: not UTF-8 or UTF-16: {error}") from error


def _parsed(lines: Iterable[str], separator: str, *, before: int) -> Iterator[_Row]:
    """Yield rows with the line on which each begins; `before` lines came first."""
    csv.field_size_limit(limits.CELL_CHARS_MAX)
    reader = csv.reader(lines, strict=True, delimiter=separator)
    while True:
        line = before + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise UnreadableLog(f"line {line}: {error}; is a quote missing?") from error
        yield _Row(line, cells)


def _parquet(file: IO[bytes], wanted: Wanted) -> tuple[list[str], Iterator[_Row], str]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise UnreadableLog("is Parquet, which needs pyarrow beside Wald; or save the file as CSV") from None
    opened = parquet.ParquetFile(file)
    header = [str(name) for name in opened.schema_arrow.names]
    used = [name for name in header if name in _names(wanted)]
    columns = [opened.read(columns=[name]).column(0).to_pylist() for name in used]
    order = {name: number for number, name in enumerate(used)}

    def rows() -> Iterator[_Row]:
        for number, values in enumerate(zip(*columns, strict=True), start=1):
            cells = [_as_text(values[order[name]]) if name in order else "" for name in header]
            yield _Row(number, cells)

    return header, rows(), ""


def _as_text(value: Any) -> str:
    return "" if value is None else repr(value) if isinstance(value, float) else str(value)


# From rows to columns


def _names(wanted: Wanted) -> list[str]:
    """Return all columns that are needed, each once."""
    return list(dict.fromkeys([*wanted.texts, *(name for name, _ in wanted.where), *wanted.numbers]))


def _within(header: Sequence[str], wanted: Wanted) -> Wanted:
    """Return what is wanted without the optional columns that the file does not have."""
    absent = wanted.optional - set(header)
    texts, numbers = (
        tuple(name for name in names if name not in absent) for names in (wanted.texts, wanted.numbers)
    )
    return msgspec.structs.replace(wanted, texts=texts, numbers=numbers)


def _positions(header: Sequence[str], wanted: Wanted, separator: str) -> dict[str, int]:
    """Return the position of each column to read. Raises UnreadableLog if one is missing or not unique."""
    for name in _names(wanted):
        if name not in header:
            shown = ", ".join(header) or "none"
            alone = len(header) == 1 and separator and not header[0].isidentifier()
            hint = (
                "; cells must be separated by commas, semicolons or tabs"
                if alone
                else suggestion(name, header)
            )
            raise UnreadableLog(f"line 1: no column {name!r}; there are {shown}{hint}")
        if header.count(name) > 1:
            raise UnreadableLog(f"line 1: {header.count(name)} columns are called {name!r}; rename one")
    return {name: header.index(name) for name in _names(wanted)}


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return `; did you mean ...?` for the nearest known name, or nothing if none is near."""
    near = nearest(name.strip(), known)
    return f"; did you mean {near!r}?" if near is not None else ""


def _chosen(rows: Iterator[_Row], at: Mapping[str, int], wanted: Wanted, width: int) -> Iterator[_Row]:
    """Yield the rows that meet all conditions. Raises UnreadableLog if there is none."""
    conditions = [_Condition(name, value.strip(), at[name]) for name, value in wanted.where]
    n_rows = n_chosen = 0
    for row in rows:
        if not any(cell.strip() for cell in row.cells):
            continue
        n_rows += 1
        _check_row(row, n_rows, width)
        if not all(condition.holds(row) for condition in conditions):
            continue
        for name in wanted.filled:
            if not row.cells[at[name]].strip():
                raise UnreadableLog(f"line {row.line}, column {name!r}: is empty")
        n_chosen += 1
        yield row
    if not n_rows:
        raise UnreadableLog("line 1: a header without rows")
    if not n_chosen:
        raise UnreadableLog(_nothing_chosen(conditions))


def _check_row(row: _Row, n_rows: int, width: int) -> None:
    if n_rows > limits.ROWS_MAX:
        raise UnreadableLog(f"line {row.line}: more than {limits.ROWS_MAX:,} rows; split the file")
    if len(row.cells) != width:
        more = ": a cell that holds the separator needs quotes" if len(row.cells) > width else ""
        raise UnreadableLog(f"line {row.line}: has {len(row.cells)} cells, the header has {width}{more}")


class _Condition:
    """A condition that a column has a value. It remembers the values of the column for an error message."""

    def __init__(self, column: str, value: str, position: int) -> None:
        self.column, self.value, self._position = column, value, position
        self.met = False
        self.seen: dict[str, None] = {}

    def holds(self, row: _Row) -> bool:
        cell = row.cells[self._position].strip()
        if len(self.seen) < limits.VALUES_SHOWN_MAX:
            self.seen.setdefault(cell)
        self.met = self.met or cell == self.value
        return cell == self.value


def _nothing_chosen(conditions: Sequence[_Condition]) -> str:
    for condition in conditions:
        if not condition.met:
            asked, shown = f"{condition.column}={condition.value}", ", ".join(map(repr, condition.seen))
            hint = suggestion(condition.value, condition.seen)
            return f"column {condition.column!r}: no row has {asked}; there are {shown}{hint}"
    return f"no row has {' and '.join(f'{one.column}={one.value}' for one in conditions)} together"


# From cells to numbers


def _decimal(
    columns: Mapping[str, Sequence[_Cell]], declared: Decimal, separator: str
) -> Literal["point", "comma"]:
    """Return the decimal separator of the file. One cell that can be read in one way only decides for all.

    A number such as 1.234 may be a little more than one, or more than a thousand; other cells decide.

    Raises UnreadableLog if cells disagree, or none decides.
    """
    if declared != "auto":
        return declared
    point: _Cell | None = None
    comma: _Cell | None = None
    either: _Cell | None = None
    for cell in chain.from_iterable(columns.values()):
        if "." not in cell.text and "," not in cell.text:
            continue
        as_point, as_comma = _readings(cell.text)
        if as_point == as_comma:  # no number
            continue
        if as_point is not None and as_comma is not None:
            either = either or cell
        elif as_point is not None:
            point = point or cell
        else:
            comma = comma or cell
    if point is not None and comma is not None:
        raise UnreadableLog(
            f"{comma.place}: {comma.text!r} has a decimal comma, but {point.text!r} ({point.place}) has a "
            "decimal point; write all numbers alike"
        )
    # Commas that separate cells are no decimal commas, and stored numbers are written with a point.
    pointed = separator == "" or (separator == "," and either is not None and "," not in either.text)
    if either is not None and point is None and comma is None and not pointed:
        as_point, as_comma = _readings(either.text)
        raise UnreadableLog(
            f"{either.place}: {either.text!r} may be {as_point} or {as_comma}, and no other number "
            "shows which; give --decimal point or --decimal comma"
        )
    return "point" if comma is None else "comma"


def _readings(text: str) -> tuple[str | None, str | None]:
    """Return a number as read with a decimal point, and with a decimal comma; None if it is not a number.

    Worked by hand: 950,5 is 950.5 with a decimal comma only; 1.234 is 1.234 or 1234.
    """
    if _NEUTRAL.fullmatch(text):
        return text, text
    point = text.replace(",", "") if _WITH_POINT.fullmatch(text) else None
    comma = text.replace(".", "").replace(",", ".") if _WITH_COMMA.fullmatch(text) else None
    if point is not None and comma is not None and text.lstrip("+-").startswith("0"):
        # Groups of thousands do not begin with 0.
        point, comma = (point, None) if "." in text else (None, comma)
    return point, comma


def _number(cell: _Cell, decimal: Literal["point", "comma"]) -> float:
    """Return the number, or NaN for a missing cell. A written NaN or infinity is an error."""
    if cell.text in MISSING:
        return np.nan
    text = _TRUTHS.get(cell.text.lower(), cell.text)
    reading = _readings(text)[0 if decimal == "point" else 1]
    if reading is None:
        if _NOT_FINITE.fullmatch(text):
            raise UnreadableLog(
                f"{cell.place}: {cell.text!r} is not finite; leave the cell empty if it is missing"
            )
        raise UnreadableLog(f"{cell.place}: {cell.text!r} is not a number{_hint(text, decimal)}")
    value = float(reading)
    if abs(value) > limits.NUMBER_MAX or 0 < abs(value) < limits.NUMBER_MIN:
        raise UnreadableLog(
            f"{cell.place}: {cell.text} is out of range: numbers must be 0 or between {limits.NUMBER_MIN:g} "
            f"and {limits.NUMBER_MAX:g} in size; use another unit"
        )
    return value


def _hint(text: str, decimal: str) -> str:
    other = _readings(text)[1 if decimal == "point" else 0]
    if other is not None:
        return f" with a decimal {decimal}"
    stripped = re.sub(r"[\s'_%\u00a0\u202f$€£]", "", text)
    return f"; write {stripped}" if stripped != text and any(_readings(stripped)) else ""
