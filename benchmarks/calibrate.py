"""The validity table: what every method of `stats` promises, measured by simulation, beside its threshold.

`make calibrate` measures all of it, `--only V8` the parts with that word in their names, with the same chance
as in the whole; `--quick` is a tenth of the size. Seeds are other ones than those of the tests, with which
methods were tuned; another `--seed-offset` gives still others. Exit status 1 if a row misses its threshold.
"""

import contextvars
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

# Matrices here are small: threads of a linear algebra library would only wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import msgspec
import rich_click as click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import (
    calibrate_adaptive,
    calibrate_bandits,
    calibrate_counts,
    calibrate_fixed,
    calibrate_policies,
    calibrate_quality,
    calibrate_sequences,
    calibrate_sequential,
    calibrate_verdicts,
    demo,
    whole_path,
)
from benchmarks.validity import SEED, SEED_OFFSET, Parts, Row, number

PARTS: Parts = {
    **calibrate_sequences.PARTS,
    **calibrate_sequential.PARTS,
    **calibrate_counts.PARTS,
    **calibrate_bandits.PARTS,
    **calibrate_adaptive.PARTS,
    **calibrate_fixed.PARTS,
    **calibrate_policies.PARTS,
    **calibrate_verdicts.PARTS,
    **calibrate_quality.PARTS,
    **whole_path.PARTS,
    **demo.PARTS,
}


FRESH = 1_000_000
"""Offset of seeds on which nothing was ever tuned."""


class Done(msgspec.Struct):
    """A part that was measured whole, as a line of a file of rows."""

    part: str
    seed_offset: int
    full: bool
    rows: list[Row]


def measured(name: str, *, full: bool, seed_offset: int) -> Iterator[Row]:
    """The rows of a part, each as soon as it is known."""
    context = contextvars.copy_context()
    context.run(SEED_OFFSET.set, seed_offset)
    rows = PARTS[name](full=full)
    while (row := context.run(next, rows, None)) is not None:
        yield row


def kept(path: Path | None, *, full: bool, seed_offset: int) -> dict[str, list[Row]]:
    """Parts that were measured before, with this size and these seeds."""
    lines = path.read_bytes().splitlines() if path and path.exists() else []
    parts = [msgspec.json.decode(line, type=Done) for line in lines]
    return {one.part: one.rows for one in parts if (one.full, one.seed_offset) == (full, seed_offset)}


def chosen(only: str) -> Parts:
    """The parts with this word in their names: "V1" is no word of "V10: ..."."""
    word = re.compile(rf"\b{re.escape(only)}\b", re.IGNORECASE) if only else re.compile("")
    return {name: part for name, part in PARTS.items() if word.search(name)}


def with_error(row: Row) -> str:
    return f"{number(row.measured)} \u00b1 {row.error:.2g}" if row.error else number(row.measured)


def table(results: dict[str, list[Row]]) -> Table:
    """The validity table, missed rows in red."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("what", overflow="fold")
    shown.add_column("measured", justify="right")
    shown.add_column("threshold", justify="right")
    shown.add_column("")
    for part, rows in results.items():
        shown.add_row(f"[bold]{part}[/bold]")
        for row in rows:
            style = "" if row.passed else "bold red"
            verdict = "pass" if row.passed else "MISSED"
            shown.add_row(escape(row.name), with_error(row), escape(row.threshold), verdict, style=style)
    return shown


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the size: some minutes.")
@click.option("--seed-offset", type=int, default=FRESH, show_default=True, help="Added to every seed.")
@click.option("--only", default="", help="Only parts with this word in their names: V8, or SPRT.")
@click.option(
    "--rows", type=click.Path(dir_okay=False, path_type=Path), help="Keep parts here, and go on after those."
)
def main(*, quick: bool, seed_offset: int, only: str, rows: Path | None) -> None:
    """Measure the validity table."""
    parts = chosen(only)
    if not parts:
        raise click.BadParameter(f"{only!r} is no word of any part: {'; '.join(PARTS)}", param_hint="--only")
    known = kept(rows, full=not quick, seed_offset=seed_offset)
    results: dict[str, list[Row]] = {}
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("", total=len(parts))
        for part in parts:
            results[part] = known.get(part, [])
            if part not in known:
                bar.update(task, description=part)
                for row in measured(part, full=not quick, seed_offset=seed_offset):
                    results[part].append(row)
                    bar.update(task, description=f"{part}: {len(results[part])} rows")
                if rows:
                    done = Done(part, seed_offset, not quick, results[part])
                    with rows.open("ab") as file:
                        file.write(msgspec.json.encode(done) + b"\n")
            bar.advance(task)
    found = list(itertools.chain.from_iterable(results.values()))
    missed = sum(not row.passed for row in found)
    Console(width=None if sys.stdout.isatty() else 140).print(table(results))
    click.echo(
        f"{len(found) - missed} of {len(found)} rows hold; "
        f"seeds {SEED + seed_offset} + k; \u00b1 is one standard error"
    )
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
