"""Coefficients of agreement between raters, of a matrix of ratings. Pure.

`wald agreement` measures the columns of a file with the same functions.
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

import msgspec
import numpy as np

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
    """A coefficient over `items` with two ratings or more; `reason` says why it has no value."""

    name: str
    raters: tuple[str, ...]
    items: int
    value: float | None = None
    interval: tuple[float, float] | None = None
    reason: str = ""


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """The agreement of all raters, then of each pair.

    `clusters` is the number of units that were left out in turn; None: items were taken as
    independent.
    """

    scale: Scale
    alpha: float
    clusters: int | None
    coefficients: tuple[Coefficient, ...]


class Rating(NamedTuple):
    """The label that a reviewer gave an item of a unit."""

    item: int
    reviewer: str
    label: int
    unit: int


def of_ratings(ratings: Sequence[Rating], *, alpha: float, pairs_max: int) -> Agreement:
    """Return the agreement of reviewers on ordered labels, with intervals clustered by unit.

    At most `pairs_max` pairs have a coefficient of their own: those with the most items together.
    """
    items = {item: row for row, item in enumerate(dict.fromkeys(rating.item for rating in ratings))}
    raters = sorted({rating.reviewer for rating in ratings})
    columns = {rater: column for column, rater in enumerate(raters)}
    matrix = np.full((len(items), len(raters)), np.nan)
    units = np.zeros(len(items), dtype=np.int64)
    for rating in ratings:
        matrix[items[rating.item], columns[rating.reviewer]] = rating.label
        units[items[rating.item]] = rating.unit
    return measure(raters, matrix, units, scale="ordinal", alpha=alpha, pairs=_pairs(matrix, pairs_max))


def _pairs(matrix: FloatArray, pairs_max: int) -> list[tuple[int, int]]:
    """Return the pairs of columns with the most common items, in the order of the columns."""
    present = (~np.isnan(matrix)).astype(np.int64)
    common = present.T @ present
    pairs = [pair for pair in itertools.combinations(range(matrix.shape[1]), 2) if common[pair] > 0]
    return sorted(sorted(pairs, key=lambda pair: -int(common[pair]))[:pairs_max])


def measure(
    raters: Sequence[str],
    ratings: FloatArray,
    units: IntArray | None,
    *,
    scale: Scale,
    alpha: float,
    pairs: Iterable[tuple[int, int]] | None = None,
) -> Agreement:
    """Compute the coefficients of all raters, then Cohen's kappa of each pair, or of these pairs.

    `ratings` have the shape (items, raters), NaN where missing; `units` is the cluster of each
    item.
    """
    all_raters = tuple(raters)
    grades = np.unique(ratings[~np.isnan(ratings)])
    codes = np.where(np.isnan(ratings), -1, np.searchsorted(grades, ratings))
    counts = (codes[:, :, None] == np.arange(len(grades))).sum(axis=1)
    complete = (codes >= 0).all(axis=1)
    coefficients = [
        _coefficient(
            "Krippendorff's alpha",
            all_raters,
            codes,
            alpha,
            lambda: krippendorff_alpha(ratings, scale=scale, clusters=units),
        )
    ]
    if scale == "nominal":
        coefficients.append(
            _coefficient("Gwet's AC1", all_raters, codes, alpha, lambda: gwet_ac1(counts, clusters=units))
        )
        if len(raters) > 2:
            of_complete = None if units is None else units[complete]
            coefficients.append(
                _coefficient(
                    "Fleiss' kappa",
                    all_raters,
                    codes[complete],
                    alpha,
                    lambda: fleiss_kappa(counts[complete], clusters=of_complete),
                )
            )
    if scale != "interval":
        name = "Cohen's kappa" if scale == "nominal" else "Cohen's kappa, quadratic weights"
        weights: Weights = "unweighted" if scale == "nominal" else "quadratic"
        for first, second in pairs or itertools.combinations(range(len(raters)), 2):
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
        estimated = estimate()
    except (InsufficientData, InvalidInput) as error:
        return msgspec.structs.replace(coefficient, reason=str(error))
    bounds = estimated.interval(alpha=alpha)
    return msgspec.structs.replace(
        coefficient, value=estimated.value, interval=(max(bounds.lower, -1.0), min(bounds.upper, 1.0))
    )
