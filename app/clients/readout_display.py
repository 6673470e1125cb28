"""A readout on a terminal. Pure: the record in, rich renderables out."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from app.analysis.readout import Bounds, MetricReadout, Readout, VariantReadout

WIDTH: Final = 31
MISSING: Final = "n/a"
_STYLES: Final = {"better": "green", "safe": "green", "harm": "bold red", "not_enough_data": "dim"}


def readout_report(readout: Readout) -> RenderableType:
    """Everything: recommendation, integrity, then a table with its forest plot per metric."""
    parts: list[RenderableType] = [Text(readout.recommendation.sentence, style="bold")]
    parts += [Text(f"  {reason}") for reason in readout.recommendation.reasons]
    parts.append(Text(""))
    for finding in readout.integrity:
        style = "bold red" if finding.severity == "broken" else "dim"
        parts.append(Text(f"{finding.kind}: {finding.detail}", style=style))
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
    text = Text(metric.key, style="bold")
    text.append(f"  {metric.kind}, {metric.role}{better}", style="not bold")
    if metric.method:
        text.append(f"\n{metric.method}; {metric.guarantee}", style="not bold dim")
    return text


def _metric_table(metric: MetricReadout) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant", no_wrap=True)
    for heading in ("units", "estimate", "effect", "interval", "relative"):
        table.add_column(heading, justify="right")
    table.add_column("", width=WIDTH, no_wrap=True)
    table.add_column("e-value", justify="right")
    table.add_column("verdict")
    reach = _reach(metric.variants)
    for variant in metric.variants:
        table.add_row(*_cells(variant, reach))
    return table


def _cells(variant: VariantReadout, reach: float) -> Iterator[RenderableType]:
    yield variant.variant + (" (control)" if variant.control else "")
    yield f"{variant.units:,}" + (f" -{variant.missing:,}" if variant.missing else "")
    yield _number(variant.estimate)
    if variant.effect is None or variant.interval is None:
        yield from (["", "", "", "", ""] if variant.control else [MISSING, MISSING, MISSING, "", MISSING])
        yield "" if variant.control else Text("not enough data", style="dim")
        return
    yield f"{variant.effect:+.4g}"
    yield _interval(variant.interval)
    relative = variant.relative_interval
    yield (
        MISSING if relative is None else " to ".join(MISSING if b is None else f"{b:+.1%}" for b in relative)
    )
    yield forest_line(variant.interval, variant.effect, reach)
    yield MISSING if variant.e_value is None else f"{variant.e_value:.3g}"
    verdict = variant.verdict or "not_enough_data"
    yield Text(verdict.replace("_", " "), style=_STYLES[verdict])


def _notes(metric: MetricReadout) -> Iterator[Text]:
    for variant in metric.variants:
        if variant.effect is None and variant.reason:
            yield Text(f"  {variant.variant}: {variant.reason}", style="dim")
        if variant.variance_reduction is not None:
            gain = f"covariates took away {variant.variance_reduction:.0%} of the variance"
            yield Text(f"  {variant.variant}: {gain}", style="dim")
        if variant.segments:
            shown = ", ".join(
                f"{segment.segment} {_number(segment.effect, signed=True)} {_interval(segment.interval)}"
                f" (pooled {_number(segment.pooled_effect, signed=True)})"
                for segment in variant.segments
            )
            test = variant.interaction_p_value
            differ = "" if test is None else f"; segments differ: p = {test:.3g}"
            yield Text(f"  {variant.variant} by segment: {shown}{differ}", style="dim")


def _progress(readout: Readout) -> str:
    progress = readout.progress
    text = f"{progress.units:,} units, {progress.share:.0%} of the expected {progress.expected_units:,}"
    if progress.units_to_decide is not None:
        text += f"; about {progress.units_to_decide:,} to decide"
    if progress.days_left is not None:
        text += f", {progress.days_left:.1f} days from now"
    if readout.leader is not None:
        declared = "declared best" if readout.leader.declared else "leads, not yet declared best"
        text += f"\n{readout.leader.variant} {declared} (each comparison at {readout.leader.level:.3g})"
    return text


def _reach(variants: Sequence[VariantReadout]) -> float:
    ends = [abs(bound) for variant in variants for bound in variant.interval or () if bound is not None]
    effects = [abs(variant.effect) for variant in variants if variant.effect is not None]
    return max([*ends, *effects], default=1.0) or 1.0


def _number(value: float | None, *, signed: bool = False) -> str:
    return MISSING if value is None else f"{value:+.4g}" if signed else f"{value:.4g}"


def _interval(interval: Bounds | None) -> str:
    if interval is None:
        return MISSING
    lower, upper = interval
    return f"[{'-inf' if lower is None else f'{lower:.4g}'}, {'inf' if upper is None else f'{upper:.4g}'}]"
