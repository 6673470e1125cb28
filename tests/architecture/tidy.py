"""Rules of plain English and line length that a program can check.

    python -m tests.architecture.tidy [PATH ...] [--only KIND]
    python -m tests.architecture.tidy --lower

The first lists each violation below the given paths, and counts them by file. The second writes the
present numbers to tidy.toml: the allowed violations of each file. Other files have none. The rules:

    words      a word or phrase that the house style avoids, in prose or as a part of a name
    names      a variable or parameter whose name says nothing about its content
    fragments  a docstring that does not begin as its kind must: a function with a verb,
               a class, property or module with a noun phrase
    sentences  a sentence of more than 35 words; the goal is 25
    columns    a line of more than 100 columns; SQL, tables and code in pages are free, and
               ruff holds the code of Python files

Words in `code spans` and in quotes are names or data, so `words` ignores them.
"""

import argparse
import ast
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
BASELINE = Path(__file__).with_name("tidy.toml")
COLUMNS_MAX = 100
SENTENCE_WORDS_MAX = 35
KINDS = ("words", "names", "fragments", "sentences", "columns")

_FOLDERS = ("app", "bandits", "stats", "migrations", "benchmarks", "tests", "docs", "deploy", ".github")
_SUFFIXES = {".py", ".md", ".sql", ".lua", ".html", ".js", ".css", ".yaml", ".toml", ".c", ".mako"}
_EXEMPT = {"app/dashboard/static/plotly.min.js"}

_COMPARED = (
    "longer|more|less|later|earlier|greater|smaller|larger|worse|better|wider|narrower|higher|lower"
    "|slower|faster|fewer|different|other"
)
_PHRASES = [
    r"whoever",
    r"somebody",
    r"nobody",
    r"told",
    r"anew",
    r"besides",
    r"(?:come|comes|came|coming) to",
    r"such an?",
    r"likeliest",
    r"soonest",
    r"for ever",
    r"mend(?:s|ed|ing)?",
    r"as many as",
    r"of which",
    rf"(?<!there )(?:is|are) no (?!{_COMPARED})[a-z]+",
]
_PHRASE = re.compile(rf"\b(?:{'|'.join(_PHRASES)})\b", re.IGNORECASE)
_PHRASE_IN_NAME = re.compile(
    r"(?:^|_)(whoever|somebody|nobody|told|anew|besides|(?:come|comes|came)_to|such_an?"
    r"|likeliest|soonest|for_ever|mend|mends|mended|as_many_as|of_which)(?:_|$)"
)
_EMPTY_NAMES = {"found", "one", "told", "own", "said", "heard", "its", "so", "of"}

_NO_NOUN_PHRASE = """
    about after also and around as at because before beside between both but by during except for
    from given how if in instead into it its like neither of on once only or over per since so than
    that then there these they this those through to under unless until upon what whatever when
    whenever where wherever whether which while who whoever whom whose why with within without
"""
_NO_VERB = """
    a all an another any each every everything four less more most no none nothing one some six
    such the three two acknowledged allocation allocations alpha answers arms assignments
    asymptotic batches body bytes called cells coefficients confidence contexts counts coverage
    critical days detail differences distance distances edges effects engines entries errors
    evidence exact expected exposed events experiment experiments fields greatest harm healthy
    hours ids identities information inverse interval intervals json kills keys lease limits
    lines little-endian maximum mean means median medians messagepack method methods
    microseconds milliseconds minutes moments names newest nodes number numbers observed
    parameters positions posterior posteriors power predicted probabilities probability
    proportions proven quantiles receivers recorded rewards rollouts rows seconds sequences
    shape share shares signals signed stage status stored stream successes sums tasks texts
    thompson time totals traffic treatment true units upper value values variance variances
    variant variants watermarks whole widths
"""
_FRAGMENT_WORDS = frozenset(_NO_NOUN_PHRASE.split())
_NOUN_WORDS = frozenset(_NO_VERB.split())


class Violation(NamedTuple):
    """A place in a file that breaks one rule."""

    path: str
    line: int
    kind: str
    excerpt: str


class Prose(NamedTuple):
    """A text of a file that a person reads, with the line on which it begins."""

    line: int
    text: str
    splits: bool = True
    """Whether its sentences are counted."""


def files(*paths: Path) -> list[Path]:
    """Return the files below these paths, or all of the product's, in order."""
    roots = paths or (*(ROOT / name for name in _FOLDERS), *ROOT.glob("*.md"), ROOT / "pyproject.toml")
    listed = {file for root in roots for file in ([root] if root.is_file() else root.rglob("*"))}
    return sorted(
        file
        for file in listed
        if (file.suffix in _SUFFIXES or file.name in {"Makefile", "Dockerfile"})
        and "__pycache__" not in file.parts
        and _name(file) not in _EXEMPT
    )


def violations(path: str, text: str) -> list[Violation]:
    """Return all violations of one file, in the order of its lines."""
    rules: dict[str, Callable[[str], list[Violation]]] = {
        ".py": lambda source: _in_python(path, source),
        ".md": lambda source: _in_markdown(path, source),
        ".sql": lambda source: _in_comments(path, source, "--", columns=False),
        ".lua": lambda source: _in_comments(path, source, "--", columns=True),
    }
    rule = rules.get(Path(path).suffix, lambda source: _in_plain(path, source))
    return sorted(rule(text), key=lambda violation: (violation.line, violation.kind))


def all_violations(*paths: Path) -> list[Violation]:
    """Return the violations of all files below these paths, or of the whole product."""
    return [violation for file in files(*paths) for violation in violations(_name(file), file.read_text())]


def _name(file: Path) -> str:
    return file.resolve().relative_to(ROOT).as_posix() if file.resolve().is_relative_to(ROOT) else str(file)


# --- rules about a text -------------------------------------------------------------------------


def _words(path: str, prose: Prose) -> Iterator[Violation]:
    if path.startswith("tests/architecture/"):
        return  # these files name the words
    text = re.sub(r"`[^`]*`|\"[^\"\n]*\"|“[^”]*”", lambda span: re.sub(r"[^\n]", "x", span[0]), prose.text)
    for match in _PHRASE.finditer(text):
        line = prose.line + text.count("\n", 0, match.start())
        yield Violation(path, line, "words", " ".join(match[0].split()))


def sentences(text: str) -> Iterator[tuple[int, str]]:
    """Yield each sentence and the number of lines before it, without tables, formulas and code."""
    block: list[str] = []
    start = 0
    fenced = False
    for number, line in enumerate([*text.splitlines(), ""]):
        stripped = line.strip()
        if stripped.startswith("```"):
            fenced = not fenced
        apart = fenced or not stripped or stripped.startswith(("```", "|", "#", ">>>", "<!--", "---"))
        apart = apart or line.startswith("    ") or re.search(r"\S {3,}\S", line) is not None
        item = re.match(r"\s*(?:[*+-]|\d+\.) +", line) is not None
        if (apart or item) and block:
            yield from _split(start, block)
            block = []
        if not apart:
            if not block:
                start = number
            block.append(re.sub(r"^\s*(?:[*+-]|\d+\.) +", "", line))


def _split(start: int, block: list[str]) -> Iterator[tuple[int, str]]:
    text = "\n".join(block)
    begin = 0
    for end in re.finditer(r"[.!?][)\"*_]*(?=\s|$)|$", text):
        sentence = text[begin : end.end()]
        if sentence.strip():
            before = len(sentence) - len(sentence.lstrip())
            yield start + text.count("\n", 0, begin + before), " ".join(sentence.split())
        begin = end.end()


def word_count(sentence: str) -> int:
    """Count the words of a sentence; a `code span` and the address of a link are one word each."""
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "code", sentence))
    return len([word for word in text.split() if re.search(r"[^\W\d_]{2,}|\b[aAI]\b|\d", word)])


def _long_sentences(path: str, prose: Prose) -> Iterator[Violation]:
    if not prose.splits:
        return
    for before, sentence in sentences(prose.text):
        if (count := word_count(sentence)) > SENTENCE_WORDS_MAX:
            yield Violation(path, prose.line + before, "sentences", f"{count} words: {sentence[:90]}")


def _prose(path: str, texts: list[Prose]) -> Iterator[Violation]:
    for prose in texts:
        yield from _words(path, prose)
        yield from _long_sentences(path, prose)


# --- Python -------------------------------------------------------------------------------------

_String = ast.JoinedStr | ast.Constant


def _in_python(path: str, source: str) -> list[Violation]:
    nodes = list(_walk(ast.parse(source)))
    documented = {
        node: text for node in nodes if isinstance(node, _DOCUMENTED) and (text := _docstring(node))
    }
    strings = [node for node in nodes if isinstance(node, ast.JoinedStr | ast.Constant) and _is_string(node)]
    comments = list(_python_comments(source.splitlines(), strings))
    texts = [Prose(node.body[0].lineno, inspect.cleandoc(text)) for node, text in documented.items()]
    texts += _joined(comments)
    if not path.startswith("tests/"):
        texts += _strings(strings, {node.body[0].lineno for node in documented})
    lines_of_prose = {number for number, text, _ in comments if "noqa" not in text} | {
        node.body[0].lineno for node in documented
    }
    for node in strings:
        if node.lineno != node.end_lineno:
            lines_of_prose.update(range(node.lineno, node.end_lineno + 1))
    return [
        *_prose(path, texts),
        *_fragments(path, documented),
        *_bound_names(path, nodes),
        *(wide for wide in _wide_lines(path, source) if wide.line in lines_of_prose),
    ]


def _walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but contexts and operators, which are half of them and not needed here."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        for field in node._fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                pending.extend(item for item in value if isinstance(item, ast.AST))
            elif isinstance(value, ast.AST) and value._fields:
                pending.append(value)


def _is_string(node: _String) -> bool:
    return isinstance(node, ast.JoinedStr) or isinstance(node.value, str)


def _python_comments(lines: list[str], strings: list[_String]) -> Iterator[tuple[int, str, bool]]:
    """Yield line, text and whether the line holds nothing else, for each comment."""
    spans: dict[int, list[tuple[int, int]]] = {}
    for node in strings:
        for number in range(node.lineno, node.end_lineno + 1):
            begin = node.col_offset if number == node.lineno else 0
            end = node.end_col_offset if number == node.end_lineno else 1 << 30
            spans.setdefault(number, []).append((begin, end))
    for number, line in enumerate(lines, start=1):
        for mark in re.finditer("#", line):
            offset = len(line[: mark.start()].encode())
            if not any(begin <= offset < end for begin, end in spans.get(number, ())):
                yield number, line[mark.end() :].strip(), not line[: mark.start()].strip()
                break


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _docstring(node: _Documented) -> str | None:
    return ast.get_docstring(node, clean=False)


def _fragments(path: str, documented: dict[_Documented, str]) -> Iterator[Violation]:
    for node, docstring in documented.items():
        if _is_fragment(node, docstring.strip()):
            yield Violation(path, node.body[0].lineno, "fragments", docstring.strip().splitlines()[0][:90])


def _is_fragment(node: _Documented, docstring: str) -> bool:
    first = re.split(r"\s", docstring, maxsplit=1)[0].rstrip(".,:;").lower()
    if isinstance(node, ast.Module | ast.ClassDef):
        return first in _FRAGMENT_WORDS
    if node.name.startswith("test_"):
        return False  # their docstrings say what the test rests on
    decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
    if "property" in decorators:
        return first in _FRAGMENT_WORDS - {"whether"}
    return first in _FRAGMENT_WORDS | _NOUN_WORDS or not re.fullmatch(r"[a-z]+(?:-[a-z]+)?", first)


def _bound_names(path: str, nodes: list[ast.AST]) -> Iterator[Violation]:
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name, line, variable = node.id, node.lineno, True
        elif isinstance(node, ast.arg):
            name, line, variable = node.arg, node.lineno, True
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name, line, variable = node.name, node.lineno, False
        else:
            continue
        if variable and name.strip("_") in _EMPTY_NAMES:
            yield Violation(path, line, "names", name)
        elif _PHRASE_IN_NAME.search(name) and not path.startswith("tests/architecture/"):
            yield Violation(path, line, "words", name)


def _strings(strings: list[_String], docstrings: set[int]) -> Iterator[Prose]:
    """Yield the strings that read like prose; an f-string is one text with `x` for each value."""
    parts = {id(part) for node in strings if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in strings:
        if id(node) in parts or node.lineno in docstrings:
            continue
        values = node.values if isinstance(node, ast.JoinedStr) else [node]
        text = "".join(str(value.value) if isinstance(value, ast.Constant) else "x" for value in values)
        if " " in text:
            yield Prose(node.lineno, text, splits=not _is_code(text))


def _is_code(text: str) -> bool:
    return re.search(r"\b(SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|WITH)\b|[<>{}]", text) is not None


# --- other files --------------------------------------------------------------------------------


def _in_markdown(path: str, source: str) -> list[Violation]:
    texts = [Prose(1, _without_fences(source))]
    return [*_prose(path, texts), *_wide_lines(path, _without_fences(source))]


def _in_comments(path: str, source: str, mark: str, *, columns: bool) -> list[Violation]:
    comments = _joined(
        (number, line.strip().removeprefix(mark).strip(), True)
        for number, line in enumerate(source.splitlines(), start=1)
        if line.strip().startswith(mark)
    )
    return [*_prose(path, comments), *(_wide_lines(path, source) if columns else ())]


def _in_plain(path: str, source: str) -> list[Violation]:
    """Check a file of another kind; a recipe or a setting may be wide, a comment may not."""
    wide = _wide_lines(path, source)
    if Path(path).suffix in {".yaml", ".toml", ""}:
        lines = source.splitlines()
        wide = (violation for violation in wide if lines[violation.line - 1].lstrip().startswith("#"))
    return [*_prose(path, [Prose(1, source, splits=False)]), *wide]


def _joined(comments: Iterable[tuple[int, str, bool]]) -> list[Prose]:
    """Return comments as texts: lines that follow each other and hold nothing else are one text."""
    texts: list[Prose] = []
    previous = -1
    for number, comment, alone in comments:
        text = re.sub(r"\b(noqa|type: ignore|pragma)\b.*", "", comment)
        if alone and number == previous + 1:
            texts[-1] = Prose(texts[-1].line, f"{texts[-1].text}\n{text}")
        else:
            texts.append(Prose(number, text))
        previous = number if alone else -1
    return texts


def _without_fences(source: str) -> str:
    """Return a page with empty lines for code blocks and tables, so lines keep their numbers."""
    lines, fenced = [], False
    for line in source.splitlines():
        mark = line.lstrip().startswith("```")
        fenced = fenced != mark
        keeps = not (fenced or mark or line.lstrip().startswith("|"))
        lines.append(line if keeps else "")
    return "\n".join(lines)


def _wide_lines(path: str, source: str) -> Iterator[Violation]:
    for number, line in enumerate(source.splitlines(), start=1):
        if _too_wide(line):
            yield Violation(path, number, "columns", str(len(line)))


def _too_wide(line: str) -> bool:
    longest = max((len(word) for word in line.split()), default=0)
    return len(line) > COLUMNS_MAX and longest < COLUMNS_MAX - 20  # a long address cannot be broken


# --- report -------------------------------------------------------------------------------------


def report(listed: list[Violation]) -> str:
    """Return the violations, one a line, and the number of each kind in each file."""
    rows = [f"{path}:{line}: {kind}: {excerpt}" for path, line, kind, excerpt in listed]
    counts: dict[str, Counter[str]] = {}
    for violation in listed:
        counts.setdefault(violation.path, Counter())[violation.kind] += 1
    width = max((len(path) for path in counts), default=4)
    rows += ["", f"{'file':{width}} " + " ".join(f"{kind:>9}" for kind in KINDS)]
    for path, count in [*counts.items(), ("all", Counter(violation.kind for violation in listed))]:
        rows.append(f"{path:{width}} " + " ".join(f"{count[kind]:9}" for kind in KINDS))
    return "\n".join(rows)


def main() -> None:
    """Print the violations below the paths that the command names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders; all of the product by default")
    parser.add_argument("--only", choices=KINDS, help="one rule")
    parser.add_argument("--lower", action="store_true", help="write the present numbers to tidy.toml")
    arguments = parser.parse_args()
    if arguments.lower:
        counts = Counter(violation.path for violation in all_violations())
        rows = [f'"{path}" = {count}\n' for path, count in sorted(counts.items())]
        BASELINE.write_text("# Violations allowed in each file; the numbers only fall.\n" + "".join(rows))
        return
    listed = all_violations(*arguments.paths)
    print(report([violation for violation in listed if arguments.only in {None, violation.kind}]))  # noqa: T201


if __name__ == "__main__":
    main()
