"""The dictionary with which texts of responses are compressed.

    python -m benchmarks.response_dictionary

writes app/responses/dictionary.zstd, made of the repository's own prose: pages, docstrings, and
samples of chats in JSON. A frame names the dictionary that it needs, so change it only before a
release, or keep the earlier file too.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import zstandard

from benchmarks.prose import HELD_OUT, chats, pages

ROOT = Path(__file__).resolve().parents[1]
BYTES = 262_144
IDENTITY = 1_463_897_156  # "WALD"; smaller numbers are reserved
PIECE = 2_000
TOGETHER = 20
"""Docstrings in one sample."""


def main() -> None:
    texts = [text for name, text in pages().items() if name not in HELD_OUT]
    texts += [path.read_text() for path in sorted(ROOT.glob("*.md"))]
    documented = list(docstrings())
    for start in range(0, len(documented), TOGETHER):
        texts.append("\n".join(documented[start : start + TOGETHER]))
    pieces: list[bytes | bytearray | memoryview] = [
        text[start : start + PIECE].encode() for text in texts for start in range(0, len(text), PIECE)
    ]
    pieces += [chat.encode() for chat in chats()]
    trained = zstandard.train_dictionary(BYTES, pieces, dict_id=IDENTITY)
    (ROOT / "app/responses/dictionary.zstd").write_bytes(trained.as_bytes())


def docstrings() -> Iterator[str]:
    """Yield the docstrings of the product."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module
    for folder in ("app", "stats", "bandits"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                    yield text


if __name__ == "__main__":
    main()
