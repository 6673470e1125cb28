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
    """Return `n` texts of `length` characters: held-out sentences in random order, words exchanged.

    A tenth of the words of each text is replaced by other words, so that no sentence occurs twice
    as it is.
    """
    rng = random.Random(seed)
    known = sentences()
    words = sorted({word for sentence in known for word in sentence.split()})
    return ["".join(_written(rng, known, words, length))[:length] for _ in range(n)]


def _written(rng: random.Random, known: list[str], words: list[str], length: int) -> Iterator[str]:
    written = 0
    while written < length:
        chosen = rng.choice(known).split()
        sentence = " ".join(rng.choice(words) if rng.random() < 0.1 else word for word in chosen)
        sentence += "\n\n" if rng.random() < 0.2 else " "
        written += len(sentence)
        yield sentence


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
