"""Tables on a terminal: every number is whole, no line is wider than the terminal. Pure.

Where a table is too wide, it gives up, in this order: headings on one line, pictures, width of names and
texts, and last its being in one piece: columns that have no room left follow below, beside the names again.
Numbers are never shortened. Names are folded, and beyond `NAME_LINES_MAX` lines shortened in the middle.
"""

import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

from rich.cells import cell_len, get_character_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

GAP: Final = 2
NAME_LEAST: Final = 16
TEXT_LEAST: Final = 20
NAME_BESIDE_PICTURES: Final = 24
"""Names longer than this are folded if a picture then has room."""
NAME_LINES_MAX: Final = 3
_JOINERS: Final = "\u200c\u200d"
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"})

Kind = Literal["name", "number", "text"]


class Picture(NamedTuple):
    """A cell that is drawn in the room that is left: `draw(width)`, at most `most` characters.

    A column of pictures is left out where there is less room than `least`.
    """

    draw: Callable[[int], str]
    least: int
    most: int


Cell = str | Text | Picture


class Column(NamedTuple):
    """A column. *name* says what the row is about, and stands in every part; *number* is never shortened."""

    heading: str
    kind: Kind = "number"


class Table:
    """A table that fits the width it is printed with.

    Columns stand in the order of their importance; pictures come last.
    """

    def __init__(self, *columns: Column) -> None:
        self.columns = columns
        self.rows: list[tuple[Cell, ...]] = []

    def add(self, *cells: Cell) -> None:
        """Add a row with a cell for each column."""
        if len(cells) != len(self.columns):
            raise ValueError(f"a row needs {len(self.columns)} cells; got {len(cells)}")
        self.rows.append(cells)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield its lines, fitted to the width of the console."""
        yield from self.lines(options.max_width)

    def lines(self, width: int) -> list[Text]:
        """Return the lines for a terminal of `width` characters."""
        shown = _Shown(self.columns, self.rows)
        found: list[Text] = []
        for number, part in enumerate(_parts(shown, width)):
            found += [Text("")] if number else []
            found += _drawn(shown, part)
        return found


class Placed(NamedTuple):
    """Where a column stands in a part of a table: its position in the table and its width."""

    column: int
    width: int


class _Shown:
    """The cells as texts, and how wide each column wants to be and may be at least."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        self.columns = columns
        self.cells = [
            [_text(cell, column) for column, cell in zip(columns, row, strict=True)] for row in rows
        ]
        self.pictures = {
            column for row in rows for column, cell in enumerate(row) if isinstance(cell, Picture)
        }
        for column, kind in enumerate(columns):
            if kind.kind == "name":
                self._distinguish(column)
        self.natural = [self._natural(column) for column in range(len(columns))]
        self.least = [self._least(column) for column in range(len(columns))]

    def of(self, column: int) -> list[Text | Picture]:
        """Return the cells of a column."""
        return [row[column] for row in self.cells]

    def _distinguish(self, column: int) -> None:
        cells = [cell for cell in self.of(column) if isinstance(cell, Text)]
        for row, cell, label in zip(self.cells, cells, labels([cell.plain for cell in cells]), strict=True):
            if label != cell.plain:
                row[column] = Text(label, style=cell.style)

    def _natural(self, column: int) -> int:
        heading = width_of(self.columns[column].heading)
        widths = [c.most if isinstance(c, Picture) else width_of(c.plain) for c in self.of(column)]
        return max([heading, *widths])

    def _least(self, column: int) -> int:
        natural = self.natural[column]
        words = [width_of(word) for word in self.columns[column].heading.split()]
        if column in self.pictures:
            return max([*words, *(c.least for c in self.of(column) if isinstance(c, Picture))], default=1)
        match self.columns[column].kind:
            case "number":
                cells = [width_of(c.plain) for c in self.of(column) if isinstance(c, Text)]
                return max([*words, *cells], default=1)
            case "name":
                return min(natural, max([NAME_LEAST, *words]))
            case "text":
                return min(natural, max([TEXT_LEAST, *words]))


def _parts(shown: _Shown, width: int) -> list[list[Placed]]:
    """The columns of each part and their widths; pictures only if there is room beside all others."""
    names = [index for index, column in enumerate(shown.columns) if column.kind == "name"]
    others = [i for i in range(len(shown.columns)) if i not in names and i not in shown.pictures]
    room = width - sum(shown.least[index] + GAP for index in names)
    groups: list[list[int]] = [[]]
    left = room
    for index in others:
        if groups[-1] and shown.least[index] > left:
            groups.append([])
            left = room
        groups[-1].append(index)
        left -= shown.least[index] + GAP
    if len(groups) == 1:
        texts = {index for index in others if shown.columns[index].kind == "text"}
        taken = [min(shown.natural[index], NAME_BESIDE_PICTURES) for index in names]
        taken += [shown.natural[index] if index in texts else shown.least[index] for index in others]
        left = width - sum(one + GAP for one in taken)
        for index in sorted(shown.pictures):
            if shown.least[index] <= left:
                groups[0].append(index)
                left -= shown.least[index] + GAP
    parts = [_placed(shown, sorted(names + group), width) for group in groups]
    widths = {name: min(dict(part)[name] for part in parts) for name in names}  # a name looks alike in all
    return [[Placed(column, widths.get(column, room)) for column, room in part] for part in parts]


def _placed(shown: _Shown, columns: Sequence[int], width: int) -> list[Placed]:
    """Widths of the columns of a part: each its least, and what is left first for names, then the others."""
    widths = {index: min(shown.least[index], width) for index in columns}
    left = width - sum(widths.values()) - GAP * (len(columns) - 1)
    names = [index for index in columns if shown.columns[index].kind == "name"]
    while left < 0 and any(widths[index] > 1 for index in names):
        widths[max(names, key=widths.__getitem__)] -= 1
        left += 1

    def rank(index: int) -> tuple[bool, bool]:
        return index in shown.pictures, shown.columns[index].kind == "text"

    for index in sorted(columns, key=rank):
        more = max(min(shown.natural[index] - widths[index], left), 0)
        widths[index] += more
        left -= more
    return [Placed(index, widths[index]) for index in columns]


def _drawn(shown: _Shown, part: Sequence[Placed]) -> Iterator[Text]:
    headings = [
        [Text(line, style="bold") for line in _wrapped(shown.columns[place.column].heading, place.width)]
        for place in part
    ]
    tallest = max(map(len, headings), default=0)
    yield from _beside([[Text("")] * (tallest - len(lines)) + lines for lines in headings], shown, part)
    labels_of = {
        place.column: _short_names([_plain(c) for c in shown.of(place.column)], place.width)
        for place in part
        if shown.columns[place.column].kind == "name"
    }
    for number, row in enumerate(shown.cells):
        cells: list[list[Text]] = []
        for place in part:
            cell = row[place.column]
            if isinstance(cell, Picture):
                cells.append([Text(cell.draw(min(place.width, cell.most)).rstrip())])
                continue
            kind = shown.columns[place.column].kind
            plain = labels_of[place.column][number] if kind == "name" else cell.plain
            lines = folded(plain, place.width) if kind == "name" else _wrapped(plain, place.width)
            cells.append([Text(line, style=cell.style) for line in lines])
        yield from _beside(cells, shown, part)


def _beside(cells: Sequence[Sequence[Text]], shown: _Shown, part: Sequence[Placed]) -> Iterator[Text]:
    for line in range(max(map(len, cells), default=0)):
        text = Text(no_wrap=True, overflow="ignore", end="")
        blank = 0
        for place, lines in zip(part, cells, strict=True):
            cell = lines[line] if line < len(lines) else Text("")
            room = max(place.width - width_of(cell.plain), 0)
            right = shown.columns[place.column].kind == "number" and place.column not in shown.pictures
            before, after = (room, 0) if right else (0, room)
            if cell.plain.strip():
                text.append(" " * (blank + before))
                text.append_text(cell)
                blank = after + GAP
            else:
                blank += place.width + GAP
        text.end = "\n"
        text.rstrip()
        yield text


def _text(cell: Cell, column: Column) -> Text | Picture:
    """The cell as it is shown; names are made visible together, so that they stay different."""
    if isinstance(cell, Picture):
        return cell
    plain, style = (cell, "") if isinstance(cell, str) else (cell.plain, cell.style)
    return Text(plain if column.kind == "name" else visible(plain), style=style)


def _plain(cell: Text | Picture) -> str:
    return cell.plain if isinstance(cell, Text) else ""


def visible(text: str) -> str:
    r"""The text with characters that a terminal would obey, or not show, as escapes such as `\x1b`."""
    return "".join(_visible(character) for character in text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _UNSEEN or character in _JOINERS:
        return " " if character == "\xa0" else character
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def labels(names: Sequence[str]) -> list[str]:
    """Texts to show for names. Names that differ look different, also if only blanks or accents differ."""
    looks = [visible(name) for name in names]
    alike: dict[str, set[str]] = {}
    for name, look in zip(names, looks, strict=True):
        alike.setdefault(_seen(look), set()).add(name)
    shown = {
        name: look if len(alike[_seen(look)]) == 1 and _seen(look) else ascii(name)
        for name, look in zip(names, looks, strict=True)
    }
    return [shown[name] for name in names]


def _seen(look: str) -> str:
    """What an eye tells apart."""
    joined = "".join(character for character in look if character not in _JOINERS)
    return " ".join(unicodedata.normalize("NFKC", joined).split())


def width_of(text: str) -> int:
    """The characters of a terminal that a text needs, at most: terminals differ on joined emoji."""
    if text.isascii():
        return len(text)
    return max(cell_len(text), sum(map(get_character_cell_size, text)))


def folded(text: str, width: int) -> list[str]:
    """The text in lines of at most `width`; nothing is left out."""
    lines, line = [], ""
    for character in text:
        if line and width_of(line + character) > width:
            lines.append(line)
            line = ""
        line += character
    return [*lines, line]


def shortened(text: str, width: int) -> str:
    """The text with `…` for its middle, if it is wider than `width`."""
    if width_of(text) <= width:
        return text
    head, tail = "", ""
    for number in range(len(text)):
        front = number % 2 == 0
        character = text[number // 2] if front else text[-1 - number // 2]
        if width_of(head + tail + character) + 1 > width:
            break
        head, tail = (head + character, tail) if front else (head, character + tail)
    return f"{head}…{tail}"


def _short_names(names: Sequence[str], width: int) -> list[str]:
    """Names for at most `NAME_LINES_MAX` lines; names whose short forms are equal stay whole."""
    room = NAME_LINES_MAX * (width - 1)  # a wide character may leave the last place of a line empty
    short = {name: shortened(name, room) for name in names}
    times = Counter(short.values())
    return [short[name] if times[short[name]] == 1 else name for name in names]


def _wrapped(text: str, width: int) -> list[str]:
    """The text in lines of at most `width`, broken between words where possible."""
    if width_of(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        joined = f"{line} {word}" if line else word
        if width_of(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = folded(word, width)
        lines += whole
    return [*lines, line]
