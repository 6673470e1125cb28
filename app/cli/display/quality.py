"""The quality of variants on a terminal: of a running experiment, and of a file."""

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.client import read
from app.cli.display.amounts import MISSING, count, interval, number, p_value, percent
from app.cli.display.tables import Column, Table, visible
from app.cli.files.quality import Quality
from app.quality.model import QualityReport


def report(answer: bytes) -> RenderableType:
    """Return the quality of each variant with what the judge alone would say, and the plans."""
    quality = read(answer, QualityReport)
    table = Table(
        Column("variant", "name"),
        *map(Column, ("judged", "labels", "quality", "interval", "judge alone", "bias removed")),
        *map(Column, ("effect", "effect interval")),
    )
    for row in quality.variants:
        contrast = row.contrast
        table.add(
            row.variant,
            count(row.judgements),
            count(row.labels),
            number(row.quality),
            interval(row.interval),
            number(row.judge_mean),
            number(row.removed_bias, signed=True),
            number(contrast.effect if contrast else None, signed=True),
            interval(contrast.interval if contrast else None, signed=True),
        )
    judge = "no judge"
    if quality.judge is not None:
        judge = f"{quality.judge.name} {quality.judge.version[:12]} ({quality.judge.trust})"
    heading = Text(visible(f"{quality.experiment}: mean human score with the help of {judge}"), style="bold")
    heading.append(f"\n{percent(quality.level)} intervals, {quality.guarantee}", style="not bold dim")
    remarks = []
    for row in quality.variants:
        reason = row.contrast.reason if row.contrast else ""
        texts = (row.reason, f"effect: {reason}" if reason else "", row.plan.text if row.plan else "")
        remarks += [Text(visible(f"{row.variant}: {text}")) for text in texts if text]
    return Group(heading, table, *remarks)


def of_file(quality: Quality) -> RenderableType:
    """Return a table of the quality of each variant of a file, and reasons for what is missing."""
    table = Table(
        Column("variant", "name"),
        *map(Column, ("units", "labels", "quality", "interval", "judge alone", "labels worth")),
        *map(Column, ("effect", "effect interval", "p-value")),
    )
    for row in quality.variants:
        table.add(
            row.variant,
            count(row.units),
            count(row.labels),
            number(row.quality),
            interval(row.interval),
            number(row.judge_mean),
            MISSING if row.label_gain is None else f"x {row.label_gain:.2f}",
            number(row.effect, signed=True),
            interval(row.effect_interval, signed=True),
            p_value(row.p_value),
        )
    heading = Text(visible(f"{quality.label}, with the help of {quality.judge}"), style="bold")
    heading.append(f"\nprediction-powered means; {quality.guarantee}", style="not bold dim")
    reasons = [Text(visible(f"{row.variant}: {row.reason}")) for row in quality.variants if row.reason]
    return Group(heading, table, *reasons)
