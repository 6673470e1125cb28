"""The fate of the signals of an experiment by name, with warnings for people. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from app.analysis.coverage import Coverage
from app.experiments.model import Definition
from app.experiments.signals import SignalUse, nearest, signals_of
from app.experiments.warnings import never_sent
from app.feedback.model import RESERVED_PREFIX
from app.responses.signals import is_derived
from app.reviews.model import SIGNAL as REVIEW

WARNINGS_MAX: Final = 10
"""Most warnings of one experiment; the rarest names are left out first."""
LATE_SHARE: Final = 0.1
"""Share of the signals of one name above which lateness is a warning."""
WAITING_MIN: Final = 100
"""From this number on, waiting feedback is a warning if less of it counts."""

_COUNTS: Final = ("counted", "waiting", "late", "early", "unknown_unit", "out_of_range")


class SignalTotals(msgspec.Struct, frozen=True):
    """The ledger's counts of one name. The empty name stands for all other names."""

    signal: str
    counted: int
    waiting: int
    unknown_unit: int
    late: int
    early: int
    out_of_range: int
    lowest: float | None
    highest: float | None
    last_at: datetime | None

    @property
    def seen(self) -> int:
        """Number of signals in the log."""
        return self.counted + self.waiting + self.unknown_unit + self.late + self.early


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One signal, by its name.

    `seen` are all signals in the log; each is in one of the counts from `counted` to `unknown`.
    `share` is `counted` per recorded assignment: above 1 if assignments have several; null without
    assignments. `read`: the reward or a metric reads it. `nearest` is the known name with the most
    similar spelling.
    """

    signal: str
    read: bool
    seen: int
    counted: int
    waiting: int
    late: int
    early: int
    unknown_unit: int
    unknown: int
    out_of_range: int
    lowest: float | None
    highest: float | None
    last_at: datetime | None
    share: float | None
    nearest: str | None = None


class OtherSignals(msgspec.Struct, frozen=True):
    """Signals of all names that are not counted by name; nothing reads them."""

    seen: int
    last_at: datetime | None


class SignalsReport(msgspec.Struct, frozen=True, kw_only=True):
    """The signals of an experiment: first those that are read, then the others by count.

    `unknown_signals` counts signals that nothing reads. `unknown_units` counts those that name a
    unit without an assignment at the time. `coverage` is of a sample; null if it was not asked for.
    """

    key: str
    assignments: int
    seen: int
    counted: int
    unknown_signals: int
    unknown_units: int
    signals: list[Signal]
    others: OtherSignals | None
    warnings: list[str]
    coverage: Coverage | None = None


def report_of(definition: Definition, assignments: int, totals: Sequence[SignalTotals]) -> SignalsReport:
    """Return the report of an experiment with this number of recorded assignments."""
    uses = signals_of(definition.reward, definition.metrics)
    stored = {signal.signal: signal for signal in totals}
    none = SignalTotals("", 0, 0, 0, 0, 0, 0, None, None, None)
    read = [_read(name, stored.get(name, none), assignments) for name in uses]
    unread = (signal for signal in totals if signal.signal and signal.signal not in uses and signal.seen)
    unknown = [_unknown(signal, uses) for signal in unread]
    unknown.sort(key=lambda signal: (-signal.seen, signal.signal))
    others = stored.get("")
    shown = [*read, *unknown]
    n_others = 0 if others is None else others.seen
    return SignalsReport(
        key=definition.key,
        assignments=assignments,
        seen=sum(signal.seen for signal in shown) + n_others,
        counted=sum(signal.counted for signal in shown),
        unknown_signals=sum(signal.unknown for signal in shown) + n_others,
        unknown_units=sum(signal.unknown_unit for signal in shown),
        signals=shown,
        others=OtherSignals(n_others, others.last_at) if others is not None and n_others else None,
        warnings=warnings_of(definition, totals),
    )


def warnings_of(definition: Definition, totals: Sequence[SignalTotals], assignments: int = 0) -> list[str]:
    """Return at most `WARNINGS_MAX` warnings about lost feedback, the most serious first.

    `assignments` are those whose outcome is known; 0: none is missed. Signals that Wald makes itself
    are not feedback that a client lost, so they may be unread.
    """
    uses = signals_of(definition.reward, definition.metrics)
    read = [signal for signal in totals if signal.signal in uses]
    unread = [
        signal
        for signal in totals
        if signal.signal not in uses and signal.seen and not _is_own(signal.signal)
    ]
    unread.sort(key=lambda signal: -signal.seen)
    unsent = never_sent(definition, {signal.signal: signal.seen for signal in totals}, assignments)
    warnings = [
        *unsent,
        *_of_units(read),
        *_of_names(unread, uses),
        *_of_values(read, uses),
        *_of_times(read),
    ]
    return warnings[:WARNINGS_MAX]


def _is_own(name: str) -> bool:
    """Return whether Wald makes signals of this name, from responses, judges or reviews."""
    return is_derived(name) or name.startswith(RESERVED_PREFIX) or name == REVIEW


def _of_units(read: Sequence[SignalTotals]) -> Iterator[str]:
    if unknown := sum(row.unknown_unit for row in read):
        yield (
            f"{unknown:,} signals name a unit that had no assignment in this experiment at the time;"
            " they are not counted"
        )
    waiting, counted = (sum(getattr(row, name) for row in read) for name in ("waiting", "counted"))
    if waiting >= WAITING_MIN and waiting > counted:
        yield (
            f"{waiting:,} signals are about assignments without a recorded exposure, more than the"
            f" {counted:,} that count"
        )


def _of_names(rows: Sequence[SignalTotals], uses: Mapping[str, SignalUse]) -> Iterator[str]:
    for row in rows:
        near = nearest(row.signal, uses) if row.signal else None
        hint = f"; did you mean {near!r}?" if near else ""
        name = f"{row.signal!r}" if row.signal else "other names"
        unread = "neither the reward nor a metric reads them"
        yield f"{row.seen:,} signals {name} are not counted: {unread}{hint}"


def _of_values(read: Sequence[SignalTotals], uses: Mapping[str, SignalUse]) -> Iterator[str]:
    for row in read:
        if row.out_of_range:
            low, high = uses[row.signal].low, uses[row.signal].high
            bounds = f"{'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
            lowest, highest = row.lowest or 0.0, row.highest or 0.0
            yield (
                f"{row.out_of_range:,} values of {row.signal!r} are outside of its declared range, {bounds};"
                f" values go from {lowest:g} to {highest:g}"
            )


def _of_times(read: Sequence[SignalTotals]) -> Iterator[str]:
    for row in read:
        if row.late > LATE_SHARE * row.seen:
            yield f"{row.late:,} of {row.seen:,} signals {row.signal!r} came after the horizon; not counted"
        if row.early:
            yield (
                f"{row.early:,} signals {row.signal!r} have a time before their assignment and are not"
                " counted; check the clock of the sender"
            )


def _read(name: str, totals: SignalTotals, assignments: int) -> Signal:
    """Return one that is read. Counts that began with an upgrade may be below 0 until a rebuild."""
    counts: dict[str, Any] = {field: max(0, getattr(totals, field)) for field in ("seen", *_COUNTS)}
    share = totals.counted / assignments if assignments else None
    return Signal(signal=name, read=True, unknown=0, share=share, **counts, **_values(totals))


def _unknown(totals: SignalTotals, uses: Mapping[str, SignalUse]) -> Signal:
    """Return one that nothing reads: none of it counts."""
    return Signal(
        signal=totals.signal,
        read=False,
        seen=totals.seen,
        unknown=totals.seen,
        share=None,
        nearest=nearest(totals.signal, uses),
        **(dict.fromkeys(_COUNTS, 0) | _values(totals)),
    )


def _values(totals: SignalTotals) -> dict[str, Any]:
    return {field: getattr(totals, field) for field in ("lowest", "highest", "last_at")}
