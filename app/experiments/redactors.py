"""Names of the redactors that an experiment may ask for. Pure.

A plug-in is an entry point of the group `wald.redactors`: a function from a text to the text and
whether it removed anything. `app/responses/redaction.py` has the built-in ones.
"""

from functools import cache
from importlib.metadata import entry_points
from typing import Final

from app.core.personal_data import KINDS

BUILT_IN: Final[tuple[str, ...]] = KINDS
GROUP: Final = "wald.redactors"


@cache
def known_redactors() -> tuple[str, ...]:
    """Return the names of the built-in redactors and of the installed plug-ins."""
    plugins = {point.name for point in entry_points(group=GROUP)}
    return (*BUILT_IN, *sorted(plugins - set(BUILT_IN)))
