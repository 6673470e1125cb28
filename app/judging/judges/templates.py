"""Templates of prompts: checked placeholders, and judged texts inside fences. Pure.

A judged text is written by a model, and its prompt by a user. Either may hold instructions, a
forged verdict or a forged end of its own fence. So each text stands between two lines with a random
mark, which it cannot know. Placeholders are replaced in one pass: a placeholder inside a judged
text stays as it is.
"""

import re
from collections.abc import Mapping
from typing import Final

from app.core.choices import suggestion
from app.core.text import is_key

PLACEHOLDERS: Final = ("prompt", "response", "rubric", "labels", "axis")
METADATA: Final = "metadata."

_PLACEHOLDER: Final = re.compile(r"\{\{(?P<name>.*?)\}\}", re.DOTALL)
_SINGLE: Final = re.compile(r"(?<!\{)\{\s*(?P<name>[A-Za-z_.]+)\s*\}(?!\})")


def check_template(template: str) -> None:
    """Check the placeholders of a template, which must include `{{response}}`.

    Raises ValueError for an unknown placeholder, with the nearest valid one.
    """
    names = placeholders(template)
    for name in names:
        if name in PLACEHOLDERS or (name.startswith(METADATA) and is_key(name.removeprefix(METADATA))):
            continue
        valid = ", ".join(f"{{{{{valid}}}}}" for valid in (*PLACEHOLDERS, "metadata.NAME"))
        hint = suggestion(name, PLACEHOLDERS)
        raise ValueError(f"template has an unknown placeholder {{{{{name}}}}}: valid are {valid}{hint}")
    if "response" in names:
        return
    single = next((match for match in _SINGLE.finditer(template) if match["name"] == "response"), None)
    hint = f"; write it instead of {single.group()}" if single else ""
    raise ValueError(f"template must contain {{{{response}}}}, the text to judge{hint}")


def placeholders(template: str) -> tuple[str, ...]:
    """Return the names of the placeholders of a template, in order."""
    return tuple(match["name"].strip() for match in _PLACEHOLDER.finditer(template))


def filled(template: str, values: Mapping[str, str]) -> str:
    """Return the template with each placeholder replaced by its value, in one pass."""
    return _PLACEHOLDER.sub(lambda match: values[match["name"].strip()], template)


def fenced(name: str, text: str, mark: str) -> str:
    """Return a judged text between two lines that hold its name and a random mark.

    The text cannot end its fence, because it does not contain the mark.
    """
    assert mark not in text
    return f"<<<{name} {mark}\n{readable(text)}\n{name} {mark}>>>"


def readable(text: str) -> str:
    """Return a text that every library can encode: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()
