"""The dictionary with which texts of responses are compressed.

    python -m benchmarks.response_dictionary

writes app/responses/dictionary.zstd, made of the documentation in docs/ and of samples of chats in
JSON. A frame names the dictionary that it needs, so change it only before a release, or keep the
earlier file too.
"""

from pathlib import Path

import zstandard

from benchmarks.prose import HELD_OUT, chats, pages

ROOT = Path(__file__).resolve().parents[1]
BYTES = 65_536
IDENTITY = 1_463_897_156  # "WALD"; smaller numbers are reserved
PIECE = 1_000


def main() -> None:
    texts = [text for name, text in pages().items() if name not in HELD_OUT]
    pieces = [text[start : start + PIECE].encode() for text in texts for start in range(0, len(text), PIECE)]
    pieces += [chat.encode() for chat in chats()]
    trained = zstandard.train_dictionary(BYTES, pieces, dict_id=IDENTITY)
    (ROOT / "app/responses/dictionary.zstd").write_bytes(trained.as_bytes())


if __name__ == "__main__":
    main()
