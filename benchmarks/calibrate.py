"""The validity table: what every method of `stats` promises, measured by simulation, beside its threshold.

`make calibrate` measures all of it with the seeds below; `--quick` at a tenth of the size. With another
`--seed-offset` chance is fresh: nothing was ever tuned on it. Exit status 1 if a row misses its threshold.
"""

import contextvars
import os
import sys
from collections.abc import Iterator
from typing import NamedTuple

# Matrices here are small: threads of a linear algebra library would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import msgspec
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import (
    calibrate_bandits,
    calibrate_counts,
    calibrate_fixed,
    calibrate_policies,
    calibrate_sequential,
    whole_path,
)
from benchmarks.validity import SEED_OFFSET, Parts, Row

PARTS: Parts = {
    **calibrate_sequential.PARTS,
    **calibrate_counts.PARTS,
    **calibrate_bandits.PARTS,
    **calibrate_fixed.PARTS,
    **calibrate_policies.PARTS,
    **whole_path.PARTS,
}


class Measured(NamedTuple):
    """A row, and the part of the table it is in."""

    part: str
    row: Row


def measured(parts: Parts, *, full: bool, seed_offset: int) -> Iterator[Measured]:
    """The rows of these parts, each as soon as it is known."""
    context = contextvars.copy_context()
    context.run(SEED_OFFSET.set, seed_offset)
    for name, part in parts.items():
        rows = part(full=full)
        while (row := context.run(next, rows, None)) is not None:
            yield Measured(name, row)


def table(results: list[Measured]) -> Table:
    """The validity table, missed rows in red."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("part")
    shown.add_column("what", overflow="fold")
    shown.add_column("measured", justify="right")
    shown.add_column("threshold", justify="right")
    shown.add_column("")
    for part, row in results:
        style = "" if row.passed else "bold red"
        verdict = "pass" if row.passed else "MISSED"
        shown.add_row(part, row.name, f"{row.measured:.4f}", row.threshold, verdict, style=style)
    return shown


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the size: some minutes.")
@click.option("--seed-offset", type=int, default=0, show_default=True, help="Added to every seed.")
@click.option("--only", default="", help="Only parts whose name holds this text.")
@click.option("--json", "as_json", is_flag=True, help="One row per line as JSON instead of the table.")
def main(*, quick: bool, seed_offset: int, only: str, as_json: bool) -> None:
    """Measure the validity table."""
    chosen = {name: part for name, part in PARTS.items() if only in name}
    if not chosen:
        raise click.BadParameter(f"no part has {only!r} in its name: {', '.join(PARTS)}", param_hint="--only")
    results: list[Measured] = []
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with bar:
        tasks = {name: bar.add_task(name, total=None) for name in chosen}
        for part, row in measured(chosen, full=not quick, seed_offset=seed_offset):
            results.append(Measured(part, row))
            bar.advance(tasks[part])
            bar.update(tasks[part], description=f"{part}: {row.name}")
            if as_json:
                click.echo(msgspec.json.encode({"part": part, **row._asdict()}))
    missed = [row for _, row in results if not row.passed]
    if not as_json:
        Console(width=None if sys.stdout.isatty() else 160).print(table(results))
        click.echo(
            f"{len(results) - len(missed)} of {len(results)} rows hold; seeds {seed_offset} + 20260101 + k"
        )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
