"""The metrics of an experiment on a terminal: raw figures, and the history of their changes."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from app.analysis.descriptive import MetricFigures, VariantFigures
from app.cli.client import read
from app.cli.display.amounts import MISSING, amounts_of, count, minute, number
from app.cli.display.tables import Column, Table, visible
from app.experiments.metric_history import Backfill, MetricEvent, MetricHistory


def figures_report(figures: Sequence[MetricFigures]) -> Iterator[RenderableType]:
    """Yield the raw figures of all metrics, those by segment, and their notes."""
    if not figures:
        return
    yield Text("raw figures: descriptive, not a comparison", style="bold")
    table = Table(Column("metric", "name"), Column("variant", "name"), *map(Column, _HEADINGS))
    for metric in figures:
        for variant in metric.variants:
            table.add(_named(metric), _variant(variant), *_cells(metric, variant))
    yield table
    by_segment = Table(
        Column("metric", "name"),
        Column("segment", "name"),
        Column("variant", "name"),
        *map(Column, _HEADINGS),
    )
    for metric in figures:
        for segment in metric.segments:
            for variant in segment.variants:
                by_segment.add(metric.key, segment.segment, _variant(variant), *_cells(metric, variant))
    if by_segment.rows:
        yield by_segment
    for metric in figures:
        if metric.note:
            yield Text(visible(f"  {metric.key}: {metric.note}"), style="dim")


def backfill_line(backfill: Backfill | None) -> Iterator[Text]:
    """Yield a line about a backfill that has not finished."""
    if backfill is None or backfill.finished_at is not None:
        return
    names = ", ".join(backfill.metrics)
    yield Text(visible(f"measuring {names or 'what has changed'}: {backfill.share:.0%} done"), style="yellow")
    if backfill.error is not None:
        yield Text(visible(f"the last attempt failed: {backfill.error}"), style="bold red")


def history_report(answer: bytes) -> RenderableType:
    """Return the metrics as they are, the backfill, and every change of them."""
    history = read(answer, MetricHistory)
    table = Table(
        Column("metric", "name"), Column("kind", "text"), Column("role", "text"), Column("version"),
        Column("since (UTC)"), Column("part of the plan", "text"),
    )  # fmt: skip
    for metric in history.metrics:
        table.add(
            metric.key,
            metric.metric.kind,
            metric.metric.role,
            str(metric.version),
            "the start" if metric.since is None else minute(metric.since),
            "no: exploratory" if metric.exploratory else "yes",
        )
    parts: list[RenderableType] = [Text(visible(history.key), style="bold"), *backfill_line(history.backfill)]
    parts.append(table if history.metrics else Text("no metrics beside the reward", style="dim"))
    parts += [Text(visible(_event(change))) for change in history.changes]
    return Group(*parts)


_HEADINGS = ("units", "with a value", "value", "total")


def _named(metric: MetricFigures) -> str:
    return f"{metric.key} (exploratory)" if metric.exploratory else metric.key


def _variant(variant: VariantFigures) -> str:
    return f"{variant.variant} (control)" if variant.control else variant.variant


def _cells(metric: MetricFigures, variant: VariantFigures) -> tuple[str, ...]:
    total = MISSING if variant.total is None else number(variant.total)
    if variant.denominator is not None:
        total = f"{total} / {number(variant.denominator)}"
    return count(variant.units), count(variant.n), amounts_of(metric.kind).value(variant.value), total


def _event(change: MetricEvent) -> str:
    """Return one change in words: when, who, what and why."""
    parts = [
        f"{word} {', '.join(keys)}"
        for word, keys in (
            ("added", change.added),
            ("corrected", change.corrected),
            ("removed", change.removed),
        )
        if keys
    ]
    parts += ["changed the reward"] if change.reward else []
    parts += ["changed the segments"] if change.segments else []
    parts += ["re-opened the plan"] if change.reopened else []
    reason = f": {change.reason}" if change.reason else ""
    return f"{minute(change.at)}  {change.by or 'not known'} {'; '.join(parts)}{reason}"
