"""What is measured of the units of an experiment, and the totals of its cells. Pure.

An assignment contributes a pair (N, D) to each metric, a unit has the sums of its assignments, and a cell
the moments of what these come to (`units`). All are whole numbers (values in nanos), functions of the set of
assignments and signals, and move by differences: totals do not depend on the order of events.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from app.core.errors import Conflict
from app.experiments.metrics import ASSIGNMENTS, REWARD, Mean, Metric, QuantileOf, Ratio
from app.experiments.model import Stickiness
from app.experiments.plan import AnalysisPlan
from app.experiments.segments import OTHER
from app.ledger.rewards.model import NANO

REWARD_METRIC: Final = Metric(key=REWARD, measure=Mean(REWARD, (0.0, 1.0)), role="primary")
ACCURACY: Final = 0.01
"""Of the sketches that quantiles are read from, relatively."""

_NARROW: Final = range(-(2**63), 2**63)
_WIDE_BYTES: Final = 24
"""A square of 10^18 nanos, of 10^12 units, has 160 bits."""
_encode: Final = msgspec.msgpack.encode


class Measures(NamedTuple):
    """What is measured of the units of an experiment: the reward first, then its metrics."""

    metrics: tuple[Metric, ...]
    plan: AnalysisPlan
    each_assignment: bool
    """Whether each assignment, drawn for by itself, is a unit of its own."""

    @classmethod
    def of(
        cls, metrics: Iterable[Metric], plan: AnalysisPlan, *, each_assignment: bool = False
    ) -> "Measures":
        """With the reward, which is primary unless another metric is."""
        metrics = tuple(metrics)
        role = "secondary" if any(metric.role == "primary" for metric in metrics) else "primary"
        return cls((msgspec.structs.replace(REWARD_METRIC, role=role), *metrics), plan, each_assignment)

    @property
    def reads_silence(self) -> bool:
        """Whether a horizon that passes without a signal tells something."""
        return any(metric.reads_silence for metric in self.metrics)

    @property
    def reads_contexts(self) -> bool:
        """Whether segments or covariates are taken from contexts."""
        return self.plan.segments is not None or bool(self.plan.covariates)

    @property
    def waits_for_halves(self) -> bool:
        """Whether a ratio may wait for its second signal before it has a value."""
        return any(
            isinstance(metric.measure, Ratio) and metric.measure.denominator != ASSIGNMENTS
            for metric in self.metrics
        )

    @property
    def segments(self) -> tuple[str, ...]:
        """What units are divided into; one without a name if no segments are declared."""
        return ("",) if self.plan.segments is None else (*self.plan.segments.values, OTHER)


def measures_of(metrics: Sequence[Metric], plan: AnalysisPlan, stickiness: Stickiness) -> Measures | None:
    """What the ledger keeps per unit, by a definition; None: nothing but totals of rewards.

    Units are kept where metrics, segments or covariates are declared, and where units come back to what they
    were given, so that their assignments are no sample of their own.
    """
    if metrics or plan.segments or plan.covariates or stickiness != "none":
        return Measures.of(metrics, plan, each_assignment=stickiness == "none")
    return None


def nanos(value: float) -> int:
    """A value in whole billionths."""
    return round(value * NANO)


# Cells

CellKey = tuple[int, int, int, str, bool]
"""Experiment, epoch, variant, segment, and whether units crossed over."""

MinuteKey = tuple[int, int, int, str, bool, int | None]
"""A cell, and the minute of its units."""

Sums = tuple[int, ...] | dict[int, int]
"""Of one metric: its number of units, then sums and products of what is measured of each, by rows of the
lower triangle; of a quantile the number of units in each bucket. What is measured are (N, D) of a ratio, else
the outcome, then the covariates (0 where one is missing), and of each whether it is missing. Sums of a ratio
that were begun before ratios had covariates have none, until `wald rebuild` counts them again."""


class UnreadableTotals(Conflict):
    """Bytes that are no totals, as only a hand that is not ours can leave them."""


class CellTotals(msgspec.Struct, frozen=True):
    """The totals of the units of a cell: how many came, and the sums of each metric."""

    units: int
    metrics: tuple[Sums, ...]

    def __add__(self, other: "CellTotals") -> "CellTotals":
        metrics = zip(self.metrics, other.metrics, strict=True)
        return CellTotals(self.units + other.units, tuple(_plus(a, b, 1) for a, b in metrics))

    def __sub__(self, other: "CellTotals") -> "CellTotals":
        metrics = zip(self.metrics, other.metrics, strict=True)
        return CellTotals(self.units - other.units, tuple(_plus(a, b, -1) for a, b in metrics))

    @property
    def empty(self) -> bool:
        """Whether there are no units: what is left of some that have moved."""
        return not self.units and not any(any(one) for one in self.metrics)

    def outcomes(self, measures: Measures) -> "CellTotals":
        """The same without covariates."""
        pairs = zip(measures.metrics, self.metrics, strict=True)
        return CellTotals(
            self.units,
            tuple(
                sums
                if isinstance(sums, dict)
                else first_sums(sums, 2 if isinstance(metric.measure, Ratio) else 1)
                for metric, sums in pairs
            ),
        )

    @classmethod
    def none(cls, measures: Measures) -> "CellTotals":
        """Of no units."""
        return cls(0, tuple(_nothing(metric, measures.plan) for metric in measures.metrics))

    def to_bytes(self) -> bytes:
        """MessagePack: the number of units, then per metric its numbers, or pairs of buckets."""
        bodies = [sorted(one.items()) if isinstance(one, dict) else packed(one) for one in self.metrics]
        return _encode([self.units, bodies])

    @classmethod
    def from_bytes(cls, body: bytes) -> "CellTotals":
        """The inverse. Raises UnreadableTotals."""
        try:
            units, bodies = _decode(body)
            metrics = tuple([_unpacked(one) if isinstance(one, bytes) else dict(one) for one in bodies])
        except msgspec.MsgspecError as error:
            raise UnreadableTotals("totals that cannot be read; run `wald rebuild`") from error
        return cls(units, metrics)


_decode: Final = msgspec.msgpack.Decoder(tuple[int, list[bytes | list[tuple[int, int]]]]).decode


def cells(by_minute: Mapping[MinuteKey, CellTotals]) -> dict[CellKey, CellTotals]:
    """The same by cell alone."""
    found: dict[CellKey, CellTotals] = {}
    for names, totals in by_minute.items():
        key = names[:5]
        found[key] = found[key] + totals if key in found else totals
    return found


_RATIO_LENGTH: Final = 6
"""Of the sums of a ratio without covariates; no other sums have as many."""


def first_sums(sums: tuple[int, ...], dimension: int) -> tuple[int, ...]:
    """The sums of the first values alone: their number, they themselves, and their products."""
    measured = 1
    while 1 + measured + measured * (measured + 1) // 2 < len(sums):
        measured += 1
    products = 1 + measured
    return (*sums[: 1 + dimension], *sums[products : products + dimension * (dimension + 1) // 2])


def _nothing(metric: Metric, plan: AnalysisPlan) -> Sums:
    if isinstance(metric.measure, QuantileOf):
        return {}
    dimension = (2 if isinstance(metric.measure, Ratio) else 1) + 2 * len(plan.covariates)
    return (0,) * (1 + dimension + dimension * (dimension + 1) // 2)


def _plus(first: Sums, second: Sums, sign: int) -> Sums:
    if isinstance(first, dict) and isinstance(second, dict):
        merged = first | {key: first.get(key, 0) + sign * count for key, count in second.items()}
        return {key: count for key, count in merged.items() if count}
    if isinstance(first, tuple) and isinstance(second, tuple):
        if len(first) != len(second) and _RATIO_LENGTH in (len(first), len(second)):
            first, second = first_sums(first, 2), first_sums(second, 2)
        return tuple(a + sign * b for a, b in zip(first, second, strict=True))
    raise ValueError("totals of different metrics do not add")


def packed(numbers: Iterable[int | None]) -> bytes:
    """MessagePack: whole numbers of 64 bits as such, wider ones as their bytes."""
    return _encode(
        [
            one if one is None or one in _NARROW else one.to_bytes(_WIDE_BYTES, "little", signed=True)
            for one in numbers
        ]
    )


def _unpacked(body: bytes) -> tuple[int, ...]:
    return tuple([unpacked_number(one) for one in _decode_numbers(body)])


def unpacked_number(one: int | bytes) -> int:
    """A number as `packed` keeps it."""
    return one if isinstance(one, int) else int.from_bytes(one, "little", signed=True)


_decode_numbers: Final = msgspec.msgpack.Decoder(list[int | bytes]).decode
