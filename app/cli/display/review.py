"""Reviews on a terminal."""

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.client import read
from app.cli.display.agreement import report
from app.cli.display.amounts import count, minute, number, percent
from app.cli.display.tables import Column, Table, visible
from app.reviews.import_service import ImportReceipt
from app.reviews.overview import Overview
from app.reviews.routes import SettingsView, Workloads


def workloads(answer: bytes) -> Table:
    """Return a table of what the reviewer can do."""
    table = Table(Column("experiment", "name"), Column("to review"), Column("reviewed"))
    for work in read(answer, Workloads).experiments:
        table.add(work.experiment, count(work.open), count(work.answered))
    return table


def overview(answer: bytes) -> RenderableType:
    """Return queues, the sample, reviewers and agreement of an experiment."""
    view = read(answer, Overview)
    sample = view.sampling
    head = Text(visible(view.experiment), style="bold")
    head.append(
        f"  {sample.sampled:,} of {sample.responses:,} responses sampled ({percent(sample.share)});"
        f" rate {percent(sample.rate)}",
        style="not bold",
    )
    counts = ("items", "open", "claimed", "done", "given up", "labels", "skips", "missing")
    queues = Table(Column("queue", "name"), *map(Column, counts))
    for queue in view.queues:
        numbers = (queue.items, queue.open, queue.claimed, queue.done, queue.given_up)
        queues.add(queue.queue, *map(count, (*numbers, queue.labels, queue.skips, queue.missing)))
    reviewers = Table(
        Column("reviewer", "name"),
        *map(Column, ("labels", "skips", "corrections", "median seconds", "last (UTC)")),
    )
    for reviewer in view.reviewers:
        name = reviewer.reviewer if reviewer.name is None else f"{reviewer.name} ({reviewer.reviewer})"
        seconds = "" if reviewer.seconds_median is None else number(reviewer.seconds_median)
        counted = (reviewer.labels, reviewer.skips, reviewer.corrections)
        reviewers.add(name, *map(count, counted), seconds, minute(reviewer.last_at))
    return Group(head, "", queues, "", reviewers, "", report(view.agreement))


def settings(answer: bytes) -> RenderableType:
    """Return the settings of an experiment in words."""
    view = read(answer, SettingsView)
    labels = ", ".join(f"{digit} {visible(word)}" for digit, word in sorted(view.labels.items()))
    state = f"revision {view.revision}" if view.revision else "not set up; these are the defaults"
    lines = [
        f"{percent(view.rate)} of responses, {view.reviewers} reviewers each ({state})",
        f"labels: {labels}",
        f"a place is free again {view.lease_s:,} s after the last sign of its reviewer",
        f"rubric: {visible(view.rubric) if view.rubric else 'none'}",
    ]
    return Group(*map(Text, lines))


def imported(receipt: ImportReceipt, file: str) -> RenderableType:
    """Return what became of the labels of a file, and a line for each that was refused."""
    summary = (
        f"{receipt.imported:,} labels imported, {receipt.corrected:,} corrected,"
        f" {receipt.unchanged:,} unchanged, {receipt.rejected:,} rejected"
    )
    outside = []
    if receipt.outside_sample:
        outside = [
            Text(f"{receipt.outside_sample:,} are about responses outside of the sample: not for estimates")
        ]
    errors = [
        Text(visible(f"{file}: line {error.line}: {f'{error.field}: ' if error.field else ''}{error.reason}"))
        for error in receipt.errors
    ]
    return Group(Text(summary), *outside, *errors)
