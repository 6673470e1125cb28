"""Measures of the units of an experiment, and the totals of its cells. Pure.

An assignment contributes a pair (N, D) to each metric. A unit has the sums of its assignments, and
a cell the moments of its units' values. All are whole numbers (values in nanos) and functions of
the set of assignments and signals. They move by differences, so totals do not depend on the order
of events.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from app.core.errors import Conflict
from app.experiments.layouts import FIRST, Layout, Layouts
from app.experiments.metrics import ASSIGNMENTS, REWARD, Mean, Metric, QuantileOf, Ratio
from app.experiments.model import Stickiness
from app.experiments.plan import AnalysisPlan
from app.experiments.segments import OTHER
from app.ledger.rewards.composite import NANO

REWARD_METRIC: Final = Metric(key=REWARD, measure=Mean(REWARD, (0.0, 1.0)), role="primary")
ACCURACY: Final = 0.01
"""Relative accuracy of the sketches from which quantiles are read."""

_NARROW: Final = range(-(2**63), 2**63)
_WIDE_BYTES: Final = 24
"""The sum of 10^12 squares of 10^18 nanos has 160 bits."""
_encode: Final = msgspec.msgpack.encode


class Measures(NamedTuple):
    """Metrics that are measured of the units of an experiment: the reward first, then its metrics.

    An earlier layout in which units were not measured has no metrics.
    """

    metrics: tuple[Metric, ...]
    plan: AnalysisPlan
    each_assignment: bool
    """Whether each assignment is a unit, because each is drawn independently."""
    layout: int = 1
    """Number of the layout of these metrics; totals say in which layout they are stored."""
    earlier: tuple["Measures", ...] = ()
    """Earlier layouts in which totals may be stored, in order."""
    reward: bool = True
    """Whether rewards of this layout follow the present rule."""

    @classmethod
    def of(
        cls, metrics: Iterable[Metric], plan: AnalysisPlan, *, each_assignment: bool = False
    ) -> "Measures":
        """Add the reward, which is primary unless another metric is."""
        metrics = tuple(metrics)
        role = "secondary" if any(metric.role == "primary" for metric in metrics) else "primary"
        return cls((msgspec.structs.replace(REWARD_METRIC, role=role), *metrics), plan, each_assignment)

    @property
    def reads_silence(self) -> bool:
        """Whether any metric has a value once the horizon passes without a signal."""
        return any(metric.reads_silence for metric in self.metrics)

    @property
    def reads_contexts(self) -> bool:
        """Whether contexts give segments or covariates."""
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
        """Segments of the units: the declared ones, then those of earlier layouts.

        One has an empty name if none are declared.
        """
        declared = self.declared_segments
        former = (name for measures in self.earlier for name in measures.declared_segments)
        return tuple(dict.fromkeys((*declared, *former)))

    @property
    def declared_segments(self) -> tuple[str, ...]:
        """Segments of the units of this layout."""
        return ("",) if self.plan.segments is None else (*self.plan.segments.values, OTHER)

    @property
    def beside(self) -> int:
        """Number of values beside each outcome of a cell: covariates, and which are missing."""
        return 2 * len(self.plan.covariates)

    @property
    def resegmented(self) -> bool:
        """Whether some stored units may be in segments of an earlier layout."""
        return any(measures.plan.segments != self.plan.segments for measures in self.earlier)

    @property
    def unfinished(self) -> frozenset[str]:
        """Keys of the metrics that the backfill has not yet measured of every unit."""
        if not self.earlier:
            return frozenset()
        carried = self.carried(self.earlier[0].layout)
        return frozenset(
            metric.key for metric, place in zip(self.metrics, carried, strict=True) if place is None
        )

    def at(self, layout: int) -> "Measures | None":
        """Return the measures of a layout; None if no totals should be stored in it."""
        return next((measures for measures in (self, *self.earlier) if measures.layout == layout), None)

    def carried(self, layout: int) -> list[int | None]:
        """Return the position of each metric in a layout; None if it is measured differently since.

        A metric that was removed and came back is measured again, because the layouts between did
        not keep its sums.
        """
        since = [measures for measures in self.earlier if measures.layout >= layout]
        return [_carried(metric, since) for metric in self.metrics]

    def converted(self, totals: "CellTotals", beside: int) -> "CellTotals":
        """Return totals of an earlier layout in this one, without units of metrics not carried.

        `beside` is the number of values beside each outcome. Raises UnreadableTotals for totals of
        an unknown layout.
        """
        if totals.layout == self.layout:
            return totals
        source = self.at(totals.layout)
        if source is None:
            raise UnreadableTotals(
                f"totals have the unknown layout {totals.layout}: try again, or run `wald rebuild`"
            )
        if not source.metrics:
            return CellTotals(0, tuple(_nothing(metric, beside) for metric in self.metrics), self.layout)
        places = zip(self.metrics, self.carried(totals.layout), strict=True)
        sums = (
            _nothing(metric, beside) if place is None else totals.metrics[place] for metric, place in places
        )
        return CellTotals(totals.units, tuple(sums), self.layout)


def _carried(metric: Metric, since: Sequence[Measures]) -> int | None:
    """Return the place of a metric in the first layout, if all of them measure it alike."""
    places = []
    for measures in since:
        if metric.key == REWARD and not measures.reward:
            return None
        alike = (
            place
            for place, other in enumerate(measures.metrics)
            if (other.key, other.measure) == (metric.key, metric.measure)
        )
        places.append(next(alike, None))
    return None if not places or None in places else places[0]


def measures_of(
    metrics: Sequence[Metric], plan: AnalysisPlan, stickiness: Stickiness, layouts: Layouts = FIRST
) -> Measures | None:
    """Return what the ledger measures per unit of a definition; None: only totals of rewards.

    Units are measured where metrics, segments or covariates are declared. They are also measured
    where stickiness lets a unit keep its variant, because its assignments are then not independent.
    From the first change of what is measured on, they always are.
    """
    each = stickiness == "none"
    if not (metrics or plan.segments or plan.covariates or not each or layouts.present > 1):
        return None
    measures = Measures.of(metrics, plan, each_assignment=each)
    earlier = tuple(_earlier(measures, layout) for layout in layouts.earlier)
    return measures._replace(layout=layouts.present, earlier=earlier)


def _earlier(measures: Measures, layout: Layout) -> Measures:
    """Return the measures of an earlier layout."""
    plan = msgspec.structs.replace(measures.plan, segments=layout.segments)
    earlier = Measures.of(layout.metrics, plan, each_assignment=measures.each_assignment)
    return earlier._replace(
        metrics=earlier.metrics if layout.measured else (), layout=layout.number, reward=layout.reward
    )


def nanos(value: float) -> int:
    """Convert a value to whole billionths."""
    return round(value * NANO)


# Cells

CellKey = tuple[int, int, int, str, bool]
"""Experiment, epoch, variant, segment, and whether units crossed over."""

MinuteKey = tuple[int, int, int, str, bool, int | None]
"""Key of a cell, and the minute of its units."""

Sums = tuple[int, ...] | dict[int, int]
"""Sums of one metric: its number of units, then the sums of what is measured of each unit, then their
products by rows of the lower triangle. Measured are (N, D) of a ratio, else the outcome; then the
covariates (0 where one is missing), and for each covariate whether it is missing. For a quantile:
the number of units in each bucket. Sums of a ratio from before ratios had covariates have none,
until `wald rebuild` counts them again."""


class UnreadableTotals(Conflict):
    """Raised when stored totals cannot be decoded, for example after manual edits."""


class CellTotals(msgspec.Struct, frozen=True):
    """Totals of the units of a cell: the number of units, and the sums of each metric of a layout.

    Totals of different layouts do not add: `Measures.converted` converts them.
    """

    units: int
    metrics: tuple[Sums, ...]
    layout: int = 1

    def __add__(self, other: "CellTotals") -> "CellTotals":
        return self._plus(other, 1)

    def __sub__(self, other: "CellTotals") -> "CellTotals":
        return self._plus(other, -1)

    def _plus(self, other: "CellTotals", sign: int) -> "CellTotals":
        if self.layout != other.layout:
            raise ValueError("totals of different layouts do not add")
        metrics = zip(self.metrics, other.metrics, strict=True)
        sums = tuple(_plus(a, b, sign) for a, b in metrics)
        return CellTotals(self.units + sign * other.units, sums, self.layout)

    @property
    def empty(self) -> bool:
        """Whether there are no units, for example after all have moved to other cells."""
        return not self.units and not any(any(sums) for sums in self.metrics)

    def outcomes(self, measures: Measures) -> "CellTotals":
        """Return the totals without covariates."""
        pairs = zip(measures.metrics, self.metrics, strict=True)
        return CellTotals(
            self.units,
            tuple(
                sums
                if isinstance(sums, dict)
                else first_sums(sums, 2 if isinstance(metric.measure, Ratio) else 1)
                for metric, sums in pairs
            ),
            self.layout,
        )

    @classmethod
    def none(cls, measures: Measures) -> "CellTotals":
        """Return the totals of no units."""
        beside = measures.beside
        return cls(0, tuple(_nothing(metric, beside) for metric in measures.metrics), measures.layout)

    def to_bytes(self) -> bytes:
        """Encode as MessagePack: number of units, numbers or bucket counts per metric, layout.

        The first layout is left out, as in totals from before there were others.
        """
        bodies = [sorted(sums.items()) if isinstance(sums, dict) else packed(sums) for sums in self.metrics]
        return _encode([self.units, bodies] if self.layout == 1 else [self.units, bodies, self.layout])

    @classmethod
    def from_bytes(cls, body: bytes) -> "CellTotals":
        """Decode the bytes of `to_bytes`. Raises UnreadableTotals."""
        try:
            stored = _decode(body)
            metrics = tuple(
                [_unpacked(sums) if isinstance(sums, bytes) else dict(sums) for sums in stored.metrics]
            )
        except msgspec.MsgspecError as error:
            raise UnreadableTotals("stored totals cannot be decoded; run `wald rebuild`") from error
        return cls(stored.units, metrics, stored.layout)


class _Body(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The bytes of totals."""

    units: int
    metrics: list[bytes | list[tuple[int, int]]]
    layout: int = 1


_decode: Final = msgspec.msgpack.Decoder(_Body).decode


def moved(body: bytes, difference: CellTotals, measures: Measures, beside: int) -> CellTotals:
    """Return stored totals plus a difference in the layout of `measures`; no bytes are no totals.

    Raises UnreadableTotals for bytes that cannot be decoded, ValueError for totals of other
    metrics.
    """
    if not body:
        return difference
    return measures.converted(CellTotals.from_bytes(body), beside) + difference


def in_layout(body: bytes, measures: Measures, beside: int) -> bytes:
    """Return stored totals in the layout of `measures`. Unreadable bytes stay as they are."""
    if not body:
        return body
    try:
        totals = CellTotals.from_bytes(body)
        return body if totals.layout == measures.layout else measures.converted(totals, beside).to_bytes()
    except (LookupError, UnreadableTotals):
        return body


def cells(by_minute: Mapping[MinuteKey, CellTotals]) -> dict[CellKey, CellTotals]:
    """Add the totals of each cell over its minutes."""
    by_cell: dict[CellKey, CellTotals] = {}
    for minute_key, totals in by_minute.items():
        key = minute_key[:5]
        by_cell[key] = by_cell[key] + totals if key in by_cell else totals
    return by_cell


_RATIO_LENGTH: Final = 6
"""Length of the sums of a ratio without covariates; no other sums have this length."""


def first_sums(sums: tuple[int, ...], dimension: int) -> tuple[int, ...]:
    """Return the sums of the first `dimension` values only: their number, sums and products."""
    measured = 1
    while 1 + measured + measured * (measured + 1) // 2 < len(sums):
        measured += 1
    products = 1 + measured
    return (*sums[: 1 + dimension], *sums[products : products + dimension * (dimension + 1) // 2])


def _nothing(metric: Metric, beside: int) -> Sums:
    """Return the sums of no units, with this number of values beside each outcome."""
    if isinstance(metric.measure, QuantileOf):
        return {}
    dimension = (2 if isinstance(metric.measure, Ratio) else 1) + beside
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
    """Encode as MessagePack: whole numbers of 64 bits as such, wider numbers as their bytes."""
    return _encode(
        [
            number
            if number is None or number in _NARROW
            else number.to_bytes(_WIDE_BYTES, "little", signed=True)
            for number in numbers
        ]
    )


def _unpacked(body: bytes) -> tuple[int, ...]:
    return tuple([unpacked_number(number) for number in _decode_numbers(body)])


def unpacked_number(number: int | bytes) -> int:
    """Decode a number of `packed`."""
    return number if isinstance(number, int) else int.from_bytes(number, "little", signed=True)


_decode_numbers: Final = msgspec.msgpack.Decoder(list[int | bytes]).decode
