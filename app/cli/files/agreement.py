"""Coefficients of agreement between raters, from a file with one row per item."""

from pathlib import Path
from typing import Any

import numpy as np
import rich_click as click

from app.cli.files import records
from app.reviews.agreement import Agreement, measure
from stats.agreement import IntArray
from stats.totals import FloatArray


def agreement_of(file: Path, *, raters: str, options: dict[str, Any]) -> Agreement:
    """Return the agreement of the raters in a file. Raises ClickException with the reason."""
    names = [name.strip() for name in raters.split(",")]
    if len(names) < 2 or len(set(names)) < len(names) or not all(names):
        raise click.UsageError(f"--raters must name two or more different columns; got {raters!r}")
    with records.in_words(file):
        ratings, units = read_ratings(file, names, options)
    return measure(names, ratings, units, scale=options["scale"], alpha=options["alpha"])


def read_ratings(
    file: Path, raters: list[str], options: dict[str, Any]
) -> tuple[FloatArray, IntArray | None]:
    """Read ratings of shape (items, raters), NaN where missing, and the unit of each item.

    On a nominal scale categories are numbered in the order of their names. Raises UnreadableLog.
    """
    unit, nominal = options["unit"], options["scale"] == "nominal"
    units = () if unit is None else (unit,)
    rows = records.read(
        file,
        records.Wanted(
            texts=tuple(dict.fromkeys([*units, *(raters if nominal else ())])),
            numbers=() if nominal else tuple(raters),
            where=options["where"],
            filled=units,
            decimal=options["decimal"],
        ),
    )
    codes = None if unit is None else np.unique(rows.texts[unit], return_inverse=True)[1].astype(np.int64)
    if not nominal:
        return np.stack([rows.numbers[rater] for rater in raters], axis=1), codes
    names = sorted({text for rater in raters for text in rows.texts[rater]} - set(records.MISSING))
    number_of = {name: float(number) for number, name in enumerate(names)}
    columns = [[number_of.get(text, np.nan) for text in rows.texts[rater]] for rater in raters]
    return np.array(columns).T, codes
