"""The status of an experiment on a terminal."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from rich.console import Group, RenderableType
from rich.text import Text

from app.analysis.descriptive import MetricFigures
from app.analysis.readout.record import Readout
from app.cli.client import Status, read
from app.cli.display import rollout as rollout_display
from app.cli.display.metrics import backfill_line, figures_report
from app.cli.display.pictures import sparkline
from app.cli.display.readout import readout_report
from app.cli.display.tables import Picture, Table, visible
from app.cli.display.variants import variants_table
from app.experiments.metric_history import Backfill
from app.rollouts.life import Rollout

_WIDTH_LEAST: Final = 12
_WIDTH: Final = 40
_CHANGES_MIN: Final = 2


class Shares(msgspec.Struct, frozen=True):
    """The shares of the variants from a time on, in the order of the variants."""

    at: datetime
    shares: tuple[float, ...]


class LiveStatus(Status, frozen=True, kw_only=True):
    """The part of a status that is shown. The answer of a newer server may have more fields."""

    epoch: int
    winner: str | None = None
    totals_as_of: datetime | None = None
    read_at: datetime | None = None
    warnings: tuple[str, ...] = ()
    frozen: dict[str, Any] | None = None
    allocation_history: tuple[Shares, ...] = ()
    analysis: Readout | None = None
    reward_in_words: str = ""
    descriptive: tuple[MetricFigures, ...] = ()
    backfill: Backfill | None = None


class Newest(msgspec.Struct, frozen=True):
    """A page with the newest rollout, if there is one."""

    rollouts: tuple[Rollout, ...]


def report(answer: bytes, rollouts: bytes) -> RenderableType:
    """Return the state, the warnings, the variants, the readout and the newest rollout."""
    status = read(answer, LiveStatus)
    parts: list[RenderableType] = [
        _head(status),
        *_reward(status),
        *_warnings(status),
        *backfill_line(status.backfill),
        Text(""),
        _variants(status),
    ]
    if status.analysis is not None:
        parts += [Text(""), readout_report(status.analysis, status.conclusion)]
    if status.descriptive:
        parts += [Text(""), *figures_report(status.descriptive)]
    for rollout in read(rollouts, Newest).rollouts:
        parts += [Text(""), rollout_display.rollout_report(rollout)]
    return Group(*parts, Text(""), _foot(status))


def _head(status: LiveStatus) -> Text:
    version = "no policy yet" if status.policy_version is None else f"policy version {status.policy_version}"
    winner = "" if status.winner is None else f", winner {status.winner}"
    text = Text(visible(status.key), style="bold")
    text.append(f"  {status.state}{winner}, epoch {status.epoch}, {version}", style="not bold")
    return text


def _reward(status: LiveStatus) -> Iterator[Text]:
    if status.reward_in_words:
        yield Text(visible(f"reward: {status.reward_in_words}"), style="dim")


def _warnings(status: LiveStatus) -> Iterator[Text]:
    if status.frozen is not None and status.frozen.get("lifted_at") is None:
        causes = "; ".join(str(cause.get("detail", "")) for cause in status.frozen.get("causes", ()))
        yield Text(visible(f"frozen: the policy does not learn: {causes}"), style="bold red")
    for warning in status.warnings:
        yield Text(visible(f"warning: {warning}"), style="yellow")


def _variants(status: LiveStatus) -> Table:
    pictures = [_history(status.allocation_history, position) for position in range(len(status.variants))]
    return variants_table(status.variants, "share over time", pictures)


def _history(history: Sequence[Shares], position: int) -> Picture | str:
    """Return a sparkline of the share of one variant over the time of the history."""
    if len(history) < _CHANGES_MIN:
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

    return Picture(draw, _WIDTH_LEAST, _WIDTH)


def _foot(status: LiveStatus) -> Text:
    lag = "unknown" if status.lag_events is None else f"{status.lag_events:,}"
    as_of = (
        "" if status.totals_as_of is None else f", totals as of {status.totals_as_of:%Y-%m-%d %H:%M:%S} UTC"
    )
    return Text(f"{lag} events wait to be counted{as_of}", style="dim")
