"""The status of an experiment on a terminal. Pure: answers of the server in, rich renderables out."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from app.analysis.readout.record import Readout
from app.cli import rollout_display
from app.cli.amounts import count, decimal, decimal_interval, percent
from app.cli.client import Status, VariantStatus, read
from app.cli.display import BLOCKS, sparkline
from app.cli.readout_display import readout_report
from app.cli.tables import Column, Picture, Table, visible
from app.rollouts.life import Rollout

WIDTH_LEAST = 12
WIDTH = 40


class Shares(msgspec.Struct, frozen=True):
    """The shares of the variants from a time on, in their order."""

    at: datetime
    shares: tuple[float, ...]


class LiveStatus(Status, frozen=True, kw_only=True):
    """What of the status is shown. An answer of a newer server may have more."""

    epoch: int
    winner: str | None = None
    totals_as_of: datetime | None = None
    read_at: datetime | None = None
    warnings: tuple[str, ...] = ()
    frozen: dict[str, Any] | None = None
    allocation_history: tuple[Shares, ...] = ()
    analysis: Readout | None = None


class Newest(msgspec.Struct, frozen=True):
    """The newest rollout, if there is one."""

    rollouts: tuple[Rollout, ...]


def report(answer: bytes, rollouts: bytes) -> RenderableType:
    """The state, what is wrong, the variants, the readout and the newest rollout."""
    status = read(answer, LiveStatus)
    parts: list[RenderableType] = [_head(status), *_warnings(status), Text(""), variants_table(status)]
    if status.analysis is not None:
        parts += [Text(""), readout_report(status.analysis)]
    parts += [part for rollout in read(rollouts, Newest).rollouts for part in _rollout(rollout)]
    return Group(*parts, Text(""), _foot(status))


def _head(status: LiveStatus) -> Text:
    version = "no policy yet" if status.policy_version is None else f"policy version {status.policy_version}"
    winner = "" if status.winner is None else f", winner {status.winner}"
    text = Text(visible(status.key), style="bold")
    text.append(f"  {status.state}{winner}, epoch {status.epoch}, {version}", style="not bold")
    return text


def _warnings(status: LiveStatus) -> Iterator[Text]:
    if status.frozen is not None and status.frozen.get("lifted_at") is None:
        causes = "; ".join(str(cause.get("detail", "")) for cause in status.frozen.get("causes", ()))
        yield Text(visible(f"frozen: the policy does not learn: {causes}"), style="bold red")
    for warning in status.warnings:
        yield Text(visible(f"warning: {warning}"), style="yellow")


def variants_table(status: LiveStatus) -> Table:
    """Every variant now. What is not known is shown as missing."""
    table = Table(
        Column("variant", "name"),
        *map(
            Column,
            ("share", "P(best)", "mean reward", "95% interval", "assigned", "pending"),
        ),
        Column("share over time"),
    )
    for position, variant in enumerate(status.variants):
        table.add(*_cells(variant), _history(status.allocation_history, position))
    return table


def _cells(variant: VariantStatus) -> tuple[str, ...]:
    return (
        variant.key + (" (control)" if variant.control else ""),
        percent(variant.allocation),
        percent(variant.probability_best),
        decimal(variant.mean),
        decimal_interval(variant.interval),
        count(variant.assignments),
        count(variant.pending),
    )


def _history(history: Sequence[Shares], position: int) -> Picture | str:
    """A sparkline of the variant's share over the time of the history."""
    if len(history) < len(BLOCKS) // 4:
        return ""

    def draw(width: int) -> str:
        first, last = history[0].at, history[-1].at
        span = (last - first).total_seconds() or 1.0
        shares, step = [], 0
        for place in range(width):
            until = span * (place + 1) / width
            while step + 1 < len(history) and (history[step + 1].at - first).total_seconds() <= until:
                step += 1
            shares.append(history[step].shares[position])
        return sparkline(shares)

    return Picture(draw, WIDTH_LEAST, WIDTH)


def _rollout(rollout: Rollout) -> Iterator[RenderableType]:
    yield Text("")
    yield rollout_display.report(rollout)


def _foot(status: LiveStatus) -> Text:
    lag = "unknown" if status.lag_events is None else f"{status.lag_events:,}"
    as_of = (
        "" if status.totals_as_of is None else f", totals as of {status.totals_as_of:%Y-%m-%d %H:%M:%S} UTC"
    )
    return Text(f"{lag} events wait to be counted{as_of}", style="dim")
