"""The readout of an experiment on a terminal."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from app.analysis.bounds import Bounds
from app.analysis.readout.record import MetricReadout, Readout, VariantReadout
from app.cli.display.amounts import (
    MISSING,
    Amounts,
    amounts_of,
    count,
    e_value,
    p_value,
    percent,
    percent_interval,
)
from app.cli.display.tables import Cell, Column, Picture, Table, labels, visible

WIDTH: Final = 31
WIDTH_LEAST: Final = 15
_STYLES: Final = {"better": "green", "safe": "green", "harm": "bold red", "not_enough_data": "dim"}


def readout_report(readout: Readout, conclusion: str = "") -> RenderableType:
    """Return the conclusion, integrity, then a table with its forest plot for each metric."""
    sentence = conclusion or readout.recommendation.sentence
    parts: list[RenderableType] = [Text(visible(sentence), style="bold")]
    parts += [Text(visible(f"  {reason}")) for reason in readout.recommendation.reasons]
    parts.append(Text(""))
    for finding in readout.integrity:
        style = "bold red" if finding.severity == "broken" else "dim"
        parts.append(Text(visible(f"{finding.kind}: {finding.detail}"), style=style))
    for metric in readout.metrics:
        parts += [Text(""), _heading(metric), _metric_table(metric)]
        parts += list(_notes(metric))
    parts += [Text(""), Text(_progress(readout), style="dim")]
    return Group(*parts)


def forest_line(interval: Bounds, effect: float, reach: float, width: int = WIDTH) -> str:
    """An interval as a line around 0: `|` is no difference, `o` the estimate; an arrow goes on.

    Worked by hand: [-1, 1] around 0 with reach 1 and width 5 is `--o--`.
    """
    middle = width // 2

    def place(value: float) -> int:
        return middle + round(max(min(value / reach, 1.0), -1.0) * middle)

    low = -reach if interval[0] is None else interval[0]
    high = reach if interval[1] is None else interval[1]
    cells = [" "] * width
    cells[middle] = "|"
    for at in range(place(low), place(high) + 1):
        cells[at] = "+" if at == middle else "-"
    cells[place(effect)] = "o"
    if low < -reach or interval[0] is None:
        cells[0] = "<"
    if high > reach or interval[1] is None:
        cells[-1] = ">"
    return "".join(cells)


def _heading(metric: MetricReadout) -> Text:
    better = "" if metric.direction == "higher" else ", lower is better"
    unit = (
        "differences in percentage points (pp)" if metric.kind == "proportion" else "in the metric's own unit"
    )
    text = Text(visible(metric.key), style="bold")
    role = f"exploratory {metric.role}" if metric.exploratory else metric.role
    text.append(f"  {metric.kind}, {role}{better}; {unit}", style="not bold")
    if metric.method:
        text.append(f"\n{metric.method}; {metric.guarantee}", style="not bold dim")
    return text


def _metric_table(metric: MetricReadout) -> Table:
    has_p = any(variant.p_value is not None for variant in metric.variants)
    has_missing = any(variant.missing for variant in metric.variants)
    table = Table(
        Column("variant", "name"),
        Column("units"),
        *([Column("missing")] if has_missing else []),
        *map(Column, ("estimate", "effect", "interval", "relative effect", "relative interval")),
        *([Column("p-value")] if has_p else []),
        Column("e-value"),
        Column("verdict", "text"),
        Column(""),
    )
    reach, amounts = _reach(metric.variants), amounts_of(metric.kind)
    for variant in metric.variants:
        cells = _cells(variant, amounts, reach)
        table.add(
            *(
                cell
                for heading, cell in cells.items()
                if not (heading == "p-value" and not has_p) and not (heading == "missing" and not has_missing)
            )
        )
    return table


def _cells(variant: VariantReadout, amounts: Amounts, reach: float) -> dict[str, Cell]:
    """The cells of a variant by their headings."""
    cells: dict[str, Cell] = {
        "variant": variant.variant + (" (control)" if variant.control else ""),
        "units": count(variant.units),
        "missing": count(variant.missing),
        "estimate": amounts.value(variant.estimate),
    }
    if variant.effect is None or variant.interval is None:
        unknown = "" if variant.control else MISSING
        verdict = Text("" if variant.control else "not enough data", style="dim")
        headings = ("effect", "interval", "relative effect", "relative interval", "p-value", "e-value")
        return cells | dict.fromkeys(headings, unknown) | {"verdict": verdict, "picture": ""}
    interval, effect = variant.interval, variant.effect
    verdict_word = variant.verdict or "not_enough_data"
    return cells | {
        "effect": amounts.difference(effect),
        "interval": amounts.interval(interval),
        "relative effect": percent(variant.relative_effect, signed=True),
        "relative interval": percent_interval(variant.relative_interval, signed=True),
        "p-value": p_value(variant.p_value),
        "e-value": e_value(variant.e_value),
        "verdict": Text(verdict_word.replace("_", " "), style=_STYLES[verdict_word]),
        "picture": Picture(
            lambda width: forest_line(interval, effect, reach, width - 1 + width % 2), WIDTH_LEAST, WIDTH
        ),
    }


def _notes(metric: MetricReadout) -> Iterator[RenderableType]:
    amounts = amounts_of(metric.kind)
    shown = labels([variant.variant for variant in metric.variants])
    for label, variant in zip(shown, metric.variants, strict=True):
        if variant.effect is None and variant.reason:
            yield Text(visible(f"  {label}: {variant.reason}"), style="dim")
        if variant.variance_reduction is not None:
            gain = f"covariates took away {variant.variance_reduction:.0%} of the variance"
            yield Text(f"  {label}: {gain}", style="dim")
        if variant.unbiased_effect is not None:
            unbiased = amounts.difference(variant.unbiased_effect)
            yield Text(f"  {label}: the plan has ended; median-unbiased effect {unbiased}", style="dim")
        if variant.segments:
            yield from _segments(label, variant, amounts)


def _segments(label: str, variant: VariantReadout, amounts: Amounts) -> Iterator[RenderableType]:
    test = variant.interaction_p_value
    differ = "" if test is None else f"; segments differ: p = {p_value(test)}"
    yield Text(f"  {label} by segment{differ}", style="dim")
    table = Table(Column("  segment", "name"), *map(Column, ("effect", "interval", "pooled effect")))
    for segment in variant.segments:
        table.add(
            f"  {segment.segment}",
            amounts.difference(segment.effect),
            amounts.interval(segment.interval),
            amounts.difference(segment.pooled_effect),
        )
    yield table


def _progress(readout: Readout) -> str:
    progress = readout.progress
    text = f"{progress.units:,} units, {progress.share:.0%} of the expected {progress.expected_units:,}"
    if progress.units_to_decide is not None:
        text += f"; about {progress.units_to_decide:,} to decide"
    if progress.days_left is not None:
        text += f", {progress.days_left:.1f} days from now"
    for option in progress.at_floors:
        text += f"\nabout {option.units_to_decide:,} at an exploration floor of {option.floor:.0%}"
    if readout.leader is not None:
        declared = "declared best" if readout.leader.declared else "leads, not yet declared best"
        text += (
            f"\n{visible(readout.leader.variant)} {declared} (each comparison at {readout.leader.level:.3g})"
        )
    return text


def _reach(variants: Sequence[VariantReadout]) -> float:
    ends = [abs(bound) for variant in variants for bound in variant.interval or () if bound is not None]
    effects = [abs(variant.effect) for variant in variants if variant.effect is not None]
    return max([*ends, *effects], default=1.0) or 1.0
