"""Warnings about definitions that are valid and probably not meant. Pure."""

from app.experiments.catalogue import known_names
from app.experiments.model import Definition
from app.experiments.signals import nearest, signals_of


def warnings_of(definition: Definition) -> list[str]:
    """Return the warnings about a definition."""
    return _spelling(definition)


def _spelling(definition: Definition) -> list[str]:
    """Return a warning for each signal that looks like a misspelled name of the catalogue.

    A name that the definition declares, or that looks like no known name, is as good as any other.
    """
    known = known_names(definition.signals)
    warnings = []
    for name in signals_of(definition.reward, definition.metrics):
        near = None if name in known else nearest(name, known)
        if near is not None:
            warnings.append(
                f"the signal {name!r} is not in the catalogue; did you mean {near!r}?"
                " If the name is right, declare it in `signals`"
            )
    return warnings
