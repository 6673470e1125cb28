"""Realistic texts for benchmarks: prose made of the documentation, and chats in JSON."""

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT = frozenset({"tutorial.md", "rollouts.md", "how-nothing-is-lost.md", "run-in-production.md"})
"""Pages that the dictionary of the text store is not made of: what is measured comes from them."""


def pages() -> dict[str, str]:
    """Return the pages of the documentation by file name, without code and tables."""
    texts = {}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        text = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
        texts[path.name] = "\n".join(line for line in text.splitlines() if not line.startswith("|"))
    return texts


def sentences() -> list[str]:
    """Return the sentences of the held-out pages."""
    text = "\n".join(text for name, text in pages().items() if name in HELD_OUT)
    parts = re.split(r"(?<=[.!?:])\s+", text)
    return [part.strip() for part in parts if len(part.strip()) > 20]


def prose(n: int, length: int, *, seed: int) -> list[str]:
    """Return `n` texts of `length` characters: held-out sentences in random order, none twice."""
    rng = random.Random(seed)
    known = sentences()
    texts = []
    for _ in range(n):
        rng.shuffle(known)
        texts.append("\n\n".join(" ".join(known[start : start + 5]) for start in range(0, 100, 5))[:length])
    return texts


def chats() -> Iterator[str]:
    """Yield short chats as providers write them."""
    questions = ["Summarize this text.", "Translate it into French.", "What is the capital of Peru?", "Why?"]
    answers = ["Here is a summary:", "Sure! ", "I'm sorry, but I can't help with that.", "In short, "]
    for question in questions:
        for answer in answers:
            yield json.dumps(
                [
                    {"role": "system", "content": "You are a helpful assistant. Answer in a few sentences."},
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ]
            )
