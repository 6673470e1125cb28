"""Coefficients of agreement between raters, from a file with one row per item."""

import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import rich_click as click

from app.cli.files import records
from stats.agreement import (
    IntArray,
    Scale,
    Weights,
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
)
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.totals import FloatArray


class Coefficient(msgspec.Struct, frozen=True, kw_only=True):
    """A coefficient over `items` with at least two ratings by `raters`; `reason` says why there is none."""

    name: str
    raters: tuple[str, ...]
    items: int
    value: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """The agreement of all raters, then of each pair.

    `clusters` is the number of units that were left out in turn; None: items were taken as independent.
    """

    scale: Scale
    alpha: float
    clusters: int | None
    coefficients: tuple[Coefficient, ...]


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


def measure(
    raters: list[str], ratings: FloatArray, units: IntArray | None, *, scale: Scale, alpha: float
) -> Agreement:
    """Compute the coefficients of all raters, then Cohen's kappa of each pair."""
    everybody = tuple(raters)
    grades = np.unique(ratings[~np.isnan(ratings)])
    codes = np.where(np.isnan(ratings), -1, np.searchsorted(grades, ratings))
    counts = np.stack([(codes == code).sum(axis=1) for code in range(len(grades))], axis=1)
    complete = (codes >= 0).all(axis=1)
    coefficients = [
        _coefficient(
            "Krippendorff's alpha",
            everybody,
            codes,
            alpha,
            lambda: krippendorff_alpha(ratings, scale=scale, clusters=units),
        )
    ]
    if scale == "nominal":
        coefficients.append(
            _coefficient("Gwet's AC1", everybody, codes, alpha, lambda: gwet_ac1(counts, clusters=units))
        )
        if len(raters) > 2:
            of_complete = None if units is None else units[complete]
            coefficients.append(
                _coefficient(
                    "Fleiss' kappa",
                    everybody,
                    codes[complete],
                    alpha,
                    lambda: fleiss_kappa(counts[complete], clusters=of_complete),
                )
            )
    if scale != "interval":
        name = "Cohen's kappa" if scale == "nominal" else "Cohen's kappa, quadratic weights"
        weights: Weights = "unweighted" if scale == "nominal" else "quadratic"
        for first, second in itertools.combinations(range(len(raters)), 2):
            table = _tables(codes[:, [first, second]], units, len(grades))
            coefficients.append(
                _coefficient(
                    name,
                    (raters[first], raters[second]),
                    codes[:, [first, second]],
                    alpha,
                    partial(cohen_kappa, table, weights=weights),
                )
            )
    clusters = None if units is None else len(np.unique(units))
    return Agreement(scale=scale, alpha=alpha, clusters=clusters, coefficients=tuple(coefficients))


def _tables(codes: IntArray, units: IntArray | None, categories: int) -> IntArray:
    """Count how often two raters gave each pair of categories; by cluster where units are given."""
    rated = (codes >= 0).all(axis=1)
    first, second = codes[rated].T
    if units is None:
        table = np.zeros((categories, categories), dtype=np.int64)
        np.add.at(table, (first, second), 1)
        return table
    clusters = np.unique(units[rated], return_inverse=True)[1]
    tables = np.zeros((int(clusters.max(initial=-1)) + 1, categories, categories), dtype=np.int64)
    np.add.at(tables, (clusters, first, second), 1)
    return tables


def _coefficient(
    name: str, raters: tuple[str, ...], codes: IntArray, alpha: float, estimate: Callable[[], Estimate]
) -> Coefficient:
    coefficient = Coefficient(name=name, raters=raters, items=int(((codes >= 0).sum(axis=1) >= 2).sum()))
    try:
        found = estimate()
    except (InsufficientData, InvalidInput) as error:
        return msgspec.structs.replace(coefficient, reason=str(error))
    bounds = found.interval(alpha=alpha)
    return msgspec.structs.replace(
        coefficient, value=found.value, interval=(max(bounds.lower, -1.0), min(bounds.upper, 1.0))
    )
