"""The command `wald analyze`. It needs no server."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import rich_click as click

from app.cli import display
from app.cli.options import (
    CSV_FILE,
    HTML_FILE,
    Parsed,
    alpha_option,
    decimal_option,
    json_option,
    numbers,
    where_option,
)
from app.cli.terminal import err, show

if TYPE_CHECKING:
    from app.analysis.readout.record import Readout

ESTIMATORS = ("always-valid", "fixed-horizon", "group-sequential")


class Guardrail(NamedTuple):
    """A guardrail metric and its margin, a share of the control's mean if `relative`."""

    metric: str
    margin: float
    relative: bool


class Cap(NamedTuple):
    """A metric and the bounds that its values are set to."""

    metric: str
    low: float | None
    high: float | None


def _named(text: str) -> tuple[str, str]:
    name, _, value = text.rpartition("=")
    if not (name and value):
        raise ValueError
    return name, value


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise click.BadParameter(f"must be a finite number; got {text!r}")
    return value


def _guardrail(text: str) -> Guardrail:
    name, value = _named(text)
    relative = value.endswith("%")
    margin = _finite(value.removesuffix("%")) / (100 if relative else 1)
    if not margin > 0:
        raise click.BadParameter(f"a margin must be positive; got {value}")
    return Guardrail(name, margin, relative)


def _cap(text: str) -> Cap:
    name, value = _named(text)
    low, colon, high = value.partition(":")
    if not colon or not (low or high):
        raise ValueError
    return Cap(name, _finite(low) if low else None, _finite(high) if high else None)


def _shares(text: str) -> tuple[tuple[str, float], ...]:
    named = [_named(part.strip()) for part in text.split(",")]
    return tuple((name, _finite(value)) for name, value in named)


@click.command("analyze")
@click.argument("file", type=CSV_FILE)
@click.option(
    "--unit",
    metavar="COL",
    help="Column of the unit that was randomised. Without it, rows are totals with a column n.",
)
@click.option(
    "--variant",
    metavar="COL",
    help="Column of the variant.  [default: variant, if rows are totals]",
)
@click.option(
    "--metric",
    "specs",
    multiple=True,
    metavar="NAME[:KIND]",
    help="A column and its kind: mean, proportion (0 or 1), A/B:ratio or p95. The first metric is primary. "
    "Repeatable.",
)
@click.option("--judge", metavar="COL", help="Instead of --metric: column of a judge's score of every unit.")
@click.option(
    "--label", metavar="COL", help="With --judge: column of the label by a person, empty if there is none."
)
@click.option(
    "--inclusion", metavar="COL", help="With --judge: column of the probability of being chosen for a label."
)
@click.option(
    "--control", metavar="KEY", help="The variant to compare with.  [default: control, or the first]"
)
@click.option("--lower", multiple=True, metavar="NAME", help="A metric that is better lower. Repeatable.")
@click.option(
    "--guardrail",
    "guardrails",
    type=Parsed("NAME=MARGIN", "latency=0.5 or latency=10%", _guardrail),
    multiple=True,
    help="A metric that must not get worse by more than its margin: 0.5, or 10%. Repeatable.",
)
@click.option(
    "--cap",
    "caps",
    type=Parsed("NAME=LOW:HIGH", "cost=0:100, cost=0: or cost=:100", _cap),
    multiple=True,
    help="Set values of a metric beyond these bounds to the bounds. Repeatable.",
)
@click.option(
    "--covariate",
    "covariates",
    multiple=True,
    metavar="COL",
    help="A column that was known before the exposure, to reduce variance (CUPED). Repeatable.",
)
@click.option(
    "--segment", metavar="COL", help="Show effects for each value of this column, partially pooled."
)
@click.option("--epoch", metavar="COL", help="Column of the period. Variants are compared within periods.")
@click.option("--propensity", metavar="COL", help="Column of the logged probability of each unit's own draw.")
@click.option(
    "--shares",
    type=Parsed("NAME=SHARE,...", "a=.5,b=.5", _shares),
    help="Probabilities of the variants, if they never changed.",
)
@where_option
@decimal_option
@click.option(
    "--plan",
    type=click.Choice(ESTIMATORS),
    default="always-valid",
    show_default=True,
    help="When intervals are valid: at every look, at one look, or at planned looks.",
)
@alpha_option
@click.option(
    "--expected-units",
    type=click.IntRange(1),
    help="Number of units for which intervals are narrowest, or at which the plan ends.  "
    "[default: 10000; of a fixed horizon, the units in the file]",
)
@click.option(
    "--looks",
    type=Parsed("F,F,1", "0.25,0.5,1", numbers),
    help="Planned looks, as fractions of the expected units.",
)
@click.option(
    "--minimum-effect", type=click.FloatRange(0, min_open=True), help="The smallest effect that matters."
)
@click.option(
    "--correction",
    type=click.Choice(["bonferroni", "benjamini-hochberg", "benjamini-yekutieli"]),
    default="benjamini-hochberg",
    show_default=True,
    help="Correction for several secondary metrics and variants.",
)
@click.option(
    "--days",
    type=click.FloatRange(0, min_open=True),
    help="Duration of the experiment so far, to estimate the days left.",
)
@click.option("--figure", type=HTML_FILE, help="Write a forest plot as an HTML page.")
@json_option
def analyze_command(
    *, file: Path, judge: str | None, label: str | None, figure: Path | None, as_json: bool, **options: Any
) -> None:
    r"""Analyze an experiment from a CSV file with one row per unit, or with totals per variant.

    The readout equals that of a running experiment: effects against the control with the intervals that
    decide, verdicts, integrity, and a recommendation.

        wald analyze runs.csv --unit user --variant arm --metric solved --metric latency:p95 \
        --lower latency:p95

    Rows of totals have the columns variant, n and successes, or variant, n, mean and sd. With
    several metrics, the column metric names the metric of each row:

        wald analyze totals.csv

    A judge scores every unit, and people label some of them. `--judge` and `--label` estimate the mean label
    of each variant from both (prediction-powered inference):

        wald analyze runs.csv --unit user --variant arm --judge score --label human
    """
    if options["unit"] is None and judge is None and label is None:
        from app.cli.files.aggregated import aggregated_readout

        result = aggregated_readout(file, options)
        _show_readout(result, figure, as_json=as_json)
        return
    for name in ("unit", "variant"):
        if options[name] is None:
            raise click.UsageError(f"Missing option --{name}; rows of totals need neither")
    if judge is not None or label is not None:
        if judge is None or label is None:
            raise click.UsageError("--judge and --label belong together; give both")
        if figure is not None:
            raise click.UsageError("--figure belongs to --metric; leave it out with --judge")
        from app.cli.files.quality import quality_of

        quality = quality_of(file, judge=judge, label=label, options=options)
        show(quality, lambda: display.quality.of_file(quality), as_json=as_json)
        return
    if not options["specs"]:
        raise click.UsageError("Missing option --metric; give at least one, or --judge and --label")
    if options.pop("inclusion") is not None:
        raise click.UsageError("--inclusion belongs to --judge and --label; leave it out")
    from app.cli.files.readout import readout_of

    names = ("unit", "variant", "control", "segment", "epoch", "propensity", "where", "days", "decimal")
    columns = {name: options.pop(name) for name in names}
    result = readout_of(file, columns=columns, **options)
    _show_readout(result, figure, as_json=as_json)


def _show_readout(result: "Readout", figure: Path | None, *, as_json: bool) -> None:
    """Show a readout, and write its forest plot if there is a file for it."""
    if figure is not None:
        display.figures.write_forest(result, figure)
        err().print(f"The forest plot is in {figure}.")
    show(result, lambda: display.readout.readout_report(result), as_json=as_json)
