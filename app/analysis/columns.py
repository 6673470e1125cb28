"""Columns of an export: assignments, their contexts, signals and metrics. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.experiments.metrics import Metric, Ratio
from app.experiments.model import Definition
from app.experiments.plan import AnalysisPlan
from app.experiments.signals import signals_of
from app.ledger.rewards.composite import NANO
from app.ledger.rewards.model import Assignments, Given, newest
from app.ledger.units.measures import Measures
from app.ledger.units.model import contributions

Kind = Literal["text", "number", "boolean"]
Values = Sequence[Any]

_KINDS: Final[Mapping[str, Kind]] = {"number": "number", "boolean": "boolean"}


class Column(NamedTuple):
    """A column of an export by its name, and the kind of its values."""

    name: str
    kind: Kind


class Layout(NamedTuple):
    """The columns that an export has in addition to those of every assignment.

    `contexts` are keys of contexts with the kind of their values. `signals` are names, and
    `metrics` the metrics of the definition.
    """

    contexts: tuple[tuple[str, Kind], ...] = ()
    signals: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()

    @classmethod
    def of(
        cls, definition: Definition, contexts: Mapping[str, Sequence[str]], logged: Sequence[str]
    ) -> "Layout":
        """Return the layout of a definition, with what its log contains."""
        read = signals_of(definition.reward, definition.metrics)
        names = [*read, *(name for name in sorted(logged) if name and name not in read)]
        return cls(
            tuple((key, _kind(kinds)) for key, kinds in contexts.items()), tuple(names), definition.metrics
        )

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in their order."""
        return (
            *(Column(f"context.{key}", kind) for key, kind in self.contexts),
            *(Column(f"signal.{name}", "number") for name in self.signals),
            *(Column(name, "number") for metric in self.metrics for name in _metric_names(metric)),
        )

    def values(
        self,
        contexts: Sequence[Mapping[str, Any] | None],
        assignments: Assignments,
        given: Given,
        swept_us: float,
    ) -> list[Values]:
        """Return the values of each column, with None where there is none."""
        current = Given(newest(assignments, given.signals), given.names)
        return [
            *([_context_value(context, key, kind) for context in contexts] for key, kind in self.contexts),
            *(_latest(current, name, len(assignments)) for name in self.signals),
            *self._metric_values(assignments, current, swept_us),
        ]

    def _metric_values(self, assignments: Assignments, current: Given, swept_us: float) -> Iterator[Values]:
        if not self.metrics:
            return
        measures = Measures(self.metrics, AnalysisPlan(), each_assignment=True)
        silent = assignments["deadline_us"] <= swept_us
        sums = contributions(assignments, current, measures, silent)
        for number, metric in enumerate(self.metrics):
            n, d = sums[:, 2 * number], sums[:, 2 * number + 1]
            known = (n != 0) | (d != 0)
            if isinstance(metric.measure, Ratio):
                yield _or_none(n.astype(np.float64) / NANO, known)
                yield _or_none(d.astype(np.float64) / NANO, known)
            else:
                scale = 1 if metric.kind == "proportion" else NANO
                divided = n.astype(np.float64) / np.where(d == 0, 1, d).astype(np.float64)
                yield _or_none(divided / scale, known)


def _kind(kinds: Sequence[str]) -> Kind:
    """Return the kind of a column whose values have these JSON types."""
    typed = set(kinds) - {"null"}
    return _KINDS.get(next(iter(typed)), "text") if len(typed) == 1 else "text"


def _context_value(context: Mapping[str, Any] | None, key: str, kind: Kind) -> Any:
    """Return a value of a context as the kind of its column; None if it is of another kind."""
    value = None if context is None else context.get(key)
    if value is None:
        return None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if kind == "number":
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return float(value) if is_number else None
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def _latest(current: Given, name: str, n: int) -> Values:
    """Return the newest value of a signal about each assignment, of any source."""
    values: list[float | None] = [None] * n
    if name not in current.names:
        return values
    chosen = current.signals[current.signals["name"] == current.names.index(name)]
    order = np.lexsort((chosen["value"], chosen["at_us"]))
    for owner, value in zip(chosen["owner"][order].tolist(), chosen["value"][order].tolist(), strict=True):
        values[owner] = value
    return values


def _metric_names(metric: Metric) -> list[str]:
    if isinstance(metric.measure, Ratio):
        return [f"metric.{metric.key}.numerator", f"metric.{metric.key}.denominator"]
    return [f"metric.{metric.key}"]


def _or_none(values: NDArray[np.float64], known: NDArray[np.bool_]) -> Values:
    return [
        value if is_known else None for value, is_known in zip(values.tolist(), known.tolist(), strict=True)
    ]
