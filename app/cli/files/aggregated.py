"""The readout of a file of totals, for the options of `wald analyze`."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import rich_click as click

from app.analysis.aggregated import (
    DEFAULT_METRIC,
    AggregatedMetric,
    AggregatedQuestion,
    Row,
    answer,
)
from app.analysis.readout.record import Readout
from app.cli.files import records
from app.cli.files.readout import estimator_of
from app.cli.files.records import Records, UnreadableLog, in_words
from app.core.errors import InvalidInput
from app.experiments.metrics import Margin
from app.experiments.plan import AnalysisPlan

_METRIC: Final = "metric"
_N: Final = "n"
_VALUES: Final = ("successes", "mean", "sd")
_PER_UNIT: Final = ("caps", "covariates", "segment", "epoch", "propensity", "inclusion", "days")
"""Options that need one row per unit."""
_ROW_FIELD: Final = re.compile(r"rows\[(\d+)\]\.?(.*)")


def aggregated_readout(file: Path, options: Mapping[str, Any]) -> Readout:
    """Return the readout of a file of totals.

    Raises UsageError for an option that needs one row per unit, and ClickException that names line,
    column and value.
    """
    for name in _PER_UNIT:
        if options[name]:
            option = {"caps": "cap", "covariates": "covariate"}.get(name, name)
            raise click.UsageError(f"--{option} needs one row per unit; give --unit, or leave it out")
    variant = options["variant"] or "variant"
    with in_words(file):
        table = _read(file, variant, options)
        rows = tuple(_row(table, number, variant) for number in range(len(table.lines)))
        try:
            return answer(_question(rows, options))
        except InvalidInput as error:
            raise UnreadableLog(_in_words(error, table, rows)) from error


def _read(file: Path, variant: str, options: Mapping[str, Any]) -> Records:
    wanted = records.Wanted(
        texts=(variant, _METRIC),
        numbers=(_N, *_VALUES),
        optional=frozenset({_METRIC, *_VALUES}),
        filled=(variant, _N),
        where=options["where"],
        decimal=options["decimal"],
    )
    try:
        table = records.read(file, wanted)
    except UnreadableLog as error:
        hint = "; a file with one row per unit needs --unit" if f"no column {_N!r}" in str(error) else ""
        raise UnreadableLog(f"{error}{hint}") from error
    if not {"successes", "mean"} & set(table.numbers):
        raise UnreadableLog(
            "line 1: totals need a column called 'successes', or columns called 'mean' and 'sd'"
        )
    return table


def _row(table: Records, number: int, variant: str) -> Row:
    """Return the row with a number. Raises UnreadableLog for counts that are not whole."""
    line = table.lines[number]
    values: dict[str, Any] = {
        name: float(column[number]) for name, column in table.numbers.items() if not np.isnan(column[number])
    }
    for name in (_N, "successes"):
        if name in values:
            if not values[name].is_integer():
                raise UnreadableLog(f"line {line}, column {name!r}: {values[name]:g} is not a whole number")
            values[name] = int(values[name])
    metric = table.texts[_METRIC][number] if _METRIC in table.texts else DEFAULT_METRIC
    body = {"variant": table.texts[variant][number], "metric": metric, **values}
    try:
        return msgspec.convert(body, Row)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        column = place.rstrip("`") or _N
        value = body.get(column, "")
        column = variant if column == "variant" else column
        raise UnreadableLog(f"line {line}, column {column!r}: {reason}; got {value!r}") from error


def _question(rows: Sequence[Row], options: Mapping[str, Any]) -> AggregatedQuestion:
    """Return the question that the options ask. Raises UsageError for an unknown metric."""
    margins = {
        guardrail.metric: Margin(guardrail.margin, guardrail.relative) for guardrail in options["guardrails"]
    }
    keys = options["specs"] or tuple(dict.fromkeys(row.metric for row in rows))
    for name in (*options["lower"], *margins):
        if name not in keys:
            raise click.UsageError(
                f"{name!r} is not a metric; the metrics are {', '.join(keys)}{records.suggestion(name, keys)}"
            )
    metrics = tuple(
        AggregatedMetric(
            key=key, direction="lower" if key in options["lower"] else "higher", margin=margins.get(key)
        )
        for key in keys
    )
    names = ("alpha", "expected_units", "minimum_effect", "correction")
    given = {name: options[name] for name in names if options[name] is not None}
    try:
        plan = AnalysisPlan(estimator=estimator_of(options["plan"], options["looks"]), **given)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    shares = None if options["shares"] is None else dict(options["shares"])
    return AggregatedQuestion(
        rows=tuple(rows), metrics=metrics, control=options["control"], shares=shares, plan=plan
    )


def _in_words(error: InvalidInput, table: Records, rows: Sequence[Row]) -> str:
    """Return the first error with the line and column of its row."""
    first = error.errors[0]
    match = _ROW_FIELD.fullmatch(first.field)
    if match is None:
        return f"{first.field}: {first.reason}" if first.field != "rows" else first.reason
    number, column = int(match[1]), match[2]
    place = f"line {table.lines[number]}" + (f", column {column!r}" if column else "")
    value = getattr(rows[number], column, None) if column else None
    got = "" if value is None or "got" in first.reason else f"; got {value!r}"
    return f"{place}: {first.reason}{got}"
