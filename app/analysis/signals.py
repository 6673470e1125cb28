"""What has become of the signals of an experiment, by name, and what a person should look at. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from app.experiments.model import Definition
from app.experiments.signals import SignalUse, nearest, signals_of

WARNINGS_MAX: Final = 10
"""Of one experiment; the least seen names are left out first."""
LATE_SHARE: Final = 0.1
"""Of the signals of one name, from which lateness is worth a warning."""
WAITING_MIN: Final = 100
"""From so many on, feedback that waits is worth a warning where less of it counts."""

_COUNTS: Final = ("counted", "waiting", "late", "early", "unknown_unit", "out_of_range")


class SignalTotals(msgspec.Struct, frozen=True):
    """What is kept of one name, as the ledger counts it. The empty name stands for all other names."""

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
        """How many are in the log."""
        return self.counted + self.waiting + self.unknown_unit + self.late + self.early


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One signal, by its name.

    `seen` are all in the log; each of them is in one of the counts from `counted` to `unknown`. `share` is
    `counted` by recorded assignments: above 1 where an assignment has several; null without assignments.
    `read`: the reward or a metric reads it. `nearest` is the known name that is spelt most alike.
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
    """Signals of names beyond those that are counted by name; nothing reads them."""

    seen: int
    last_at: datetime | None


class SignalsReport(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of the signals of an experiment: those that are read first, then the others by count.

    `unknown_signals` and `unknown_units` are the sums of signals that nothing reads, and of those that name a
    unit without an assignment at the time.
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


def report_of(definition: Definition, assignments: int, totals: Sequence[SignalTotals]) -> SignalsReport:
    """The report of an experiment with so many recorded assignments."""
    uses = signals_of(definition.reward, definition.metrics)
    stored = {one.signal: one for one in totals}
    none = SignalTotals("", 0, 0, 0, 0, 0, 0, None, None, None)
    read = [_read(name, stored.get(name, none), assignments) for name in uses]
    unknown = [_unknown(one, uses) for one in totals if one.signal and one.signal not in uses and one.seen]
    unknown.sort(key=lambda one: (-one.seen, one.signal))
    others = stored.get("")
    shown = [*read, *unknown]
    n_others = 0 if others is None else others.seen
    return SignalsReport(
        key=definition.key,
        assignments=assignments,
        seen=sum(one.seen for one in shown) + n_others,
        counted=sum(one.counted for one in shown),
        unknown_signals=sum(one.unknown for one in shown) + n_others,
        unknown_units=sum(one.unknown_unit for one in shown),
        signals=shown,
        others=OtherSignals(n_others, others.last_at) if others is not None and n_others else None,
        warnings=warnings_of(definition, totals),
    )


def warnings_of(definition: Definition, totals: Sequence[SignalTotals]) -> list[str]:
    """What is lost of the feedback of an experiment, in words, the gravest first. At most `WARNINGS_MAX`."""
    uses = signals_of(definition.reward, definition.metrics)
    read = [one for one in totals if one.signal in uses]
    unknown = sorted(
        (one for one in totals if one.signal not in uses and one.seen), key=lambda one: -one.seen
    )
    found = [*_of_units(read), *_of_names(unknown, uses), *_of_values(read, uses), *_of_times(read)]
    return found[:WARNINGS_MAX]


def _of_units(read: Sequence[SignalTotals]) -> Iterator[str]:
    if unknown := sum(one.unknown_unit for one in read):
        yield (
            f"{unknown:,} signals name a unit that had no assignment in this experiment at the time;"
            " they are not counted"
        )
    waiting, counted = (sum(getattr(one, name) for one in read) for name in ("waiting", "counted"))
    if waiting >= WAITING_MIN and waiting > counted:
        yield (
            f"{waiting:,} signals are about assignments whose exposure is not recorded, more than the"
            f" {counted:,} that count"
        )


def _of_names(unknown: Sequence[SignalTotals], uses: Mapping[str, SignalUse]) -> Iterator[str]:
    for one in unknown:
        near = nearest(one.signal, uses) if one.signal else None
        hint = f"; did you mean {near!r}?" if near else ""
        name = f"{one.signal!r}" if one.signal else "other names"
        yield f"{one.seen:,} signals {name} are not counted: neither the reward nor a metric reads them{hint}"


def _of_values(read: Sequence[SignalTotals], uses: Mapping[str, SignalUse]) -> Iterator[str]:
    for one in read:
        if one.out_of_range:
            low, high = uses[one.signal].low, uses[one.signal].high
            bounds = f"{'any' if low is None else f'{low:g}'} to {'any' if high is None else f'{high:g}'}"
            lowest, highest = one.lowest or 0.0, one.highest or 0.0
            yield (
                f"{one.out_of_range:,} values of {one.signal!r} are outside of its declared range, {bounds};"
                f" values go from {lowest:g} to {highest:g}"
            )


def _of_times(read: Sequence[SignalTotals]) -> Iterator[str]:
    for one in read:
        if one.late > LATE_SHARE * one.seen:
            yield f"{one.late:,} of {one.seen:,} signals {one.signal!r} came after the horizon; not counted"
        if one.early:
            yield (
                f"{one.early:,} signals {one.signal!r} say that they happened before their assignment; they"
                " are not counted: check the clock of the sender"
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
