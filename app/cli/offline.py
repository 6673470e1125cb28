"""The commands that need no server: `wald analyze` and `wald power`."""

from pathlib import Path
from typing import Any

import rich_click as click

from app.cli.options import json_option
from app.cli.traffic import Condition, decimal_option

ESTIMATORS = ("always-valid", "fixed-horizon", "group-sequential")


@click.command("analyze")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--unit", required=True, metavar="COL", help="The column that names who or what was randomised."
)
@click.option("--variant", required=True, metavar="COL", help="The column that names the variant.")
@click.option(
    "--metric",
    "specs",
    multiple=True,
    metavar="NAME[:KIND]",
    help="A column and what is measured: mean, proportion (0 or 1), A/B:ratio, p95. The first is primary.",
)
@click.option("--judge", metavar="COL", help="Instead of --metric: a judge's score of every unit.")
@click.option(
    "--label", metavar="COL", help="With --judge: the label by a person, empty where there is none."
)
@click.option("--inclusion", metavar="COL", help="With --judge: the probability of being chosen for a label.")
@click.option(
    "--control", metavar="KEY", help="The variant to compare with.  [default: control, or the first]"
)
@click.option("--lower", multiple=True, metavar="NAME", help="Lower is better; may be repeated.")
@click.option(
    "--guardrail", multiple=True, metavar="NAME=MARGIN", help="May get worse by that much: 0.5, or 10%."
)
@click.option("--cap", multiple=True, metavar="NAME=LOW:HIGH", help="Set values beyond these bounds to them.")
@click.option(
    "--covariate", "covariates", multiple=True, metavar="COL", help="Known before the exposure (CUPED)."
)
@click.option("--segment", metavar="COL", help="Effects per value of this column, partially pooled.")
@click.option("--epoch", metavar="COL", help="Periods in which the split was constant; compared within.")
@click.option("--propensity", metavar="COL", help="The logged probability of each unit's own draw.")
@click.option("--shares", metavar="A=.5,B=.5", help="The probabilities of the variants, if they never moved.")
@click.option("--where", type=Condition(), multiple=True, help="Only rows with this value; may be repeated.")
@decimal_option
@click.option(
    "--plan",
    type=click.Choice(ESTIMATORS),
    default="always-valid",
    show_default=True,
    help="When intervals have to hold.",
)
@click.option("--alpha", type=click.FloatRange(1e-6, 0.5), default=0.05, show_default=True)
@click.option("--expected-units", type=click.IntRange(1), default=10_000, show_default=True)
@click.option("--looks", metavar="F,F,1", help="Planned looks as fractions of the expected units.")
@click.option("--minimum-effect", type=click.FloatRange(0, min_open=True), help="The smallest that matters.")
@click.option(
    "--correction",
    type=click.Choice(["bonferroni", "benjamini-hochberg", "benjamini-yekutieli"]),
    default="benjamini-hochberg",
    show_default=True,
    help="Across secondary metrics and variants.",
)
@click.option(
    "--days", type=click.FloatRange(0, min_open=True), help="How long it ran, to say how long to wait."
)
@click.option(
    "--figure", type=click.Path(dir_okay=False, path_type=Path), help="Write a forest plot as HTML."
)
@click.option("--json", "as_json", is_flag=True, help="The readout as JSON instead of tables.")
def analyze_command(
    *, file: Path, judge: str | None, label: str | None, figure: Path | None, as_json: bool, **options: Any
) -> None:
    """Read out an experiment from a CSV file with one row per unit.

    The same readout as that of a running experiment: effects against the control with the intervals that
    decide, verdicts, integrity, and what to do.

        wald analyze runs.csv --unit user --variant arm --metric solved --metric latency:p95 --lower
        latency:p95

    With a judge's score of every unit and labels by people on some, it estimates the mean label of each
    variant from both (prediction-powered inference):

        wald analyze runs.csv --unit user --variant arm --judge score --label human
    """
    if judge is not None or label is not None:
        if judge is None or label is None:
            raise click.UsageError("--judge and --label belong together; give both")
        if figure is not None:
            raise click.UsageError("--figure belongs to --metric; leave it out with --judge")
        from app.cli.quality import show_quality  # noqa: PLC0415 - each command loads only what it needs

        show_quality(file, judge=judge, label=label, as_json=as_json, options=options)
        return
    if not options["specs"]:
        raise click.UsageError("Missing option '--metric'; give at least one, or --judge and --label.")
    if options.pop("inclusion") is not None:
        raise click.UsageError("--inclusion belongs to --judge and --label")
    from app.cli.analyze import show_readout  # noqa: PLC0415

    show_readout(file, figure=figure, as_json=as_json, options=options)


@click.command("power")
@click.option(
    "--kind", type=click.Choice(["proportion", "mean", "ratio"]), default="proportion", show_default=True
)
@click.option("--baseline", type=float, help="The control's proportion, or its mean (for relative effects).")
@click.option("--sd", type=float, help="Of a mean: the standard deviation of a unit.")
@click.option("--numerator-mean", type=float, help="Of a ratio, per unit; with the four below.")
@click.option("--denominator-mean", type=float)
@click.option("--numerator-sd", type=float)
@click.option("--denominator-sd", type=float)
@click.option("--correlation", type=float)
@click.option("--effect", type=float, help="What has to be found; without it, what --units can find.")
@click.option("--relative", is_flag=True, help="The effect is a share of the baseline.")
@click.option("--units", type=int, help="How many there will be; with --effect, the power is the answer.")
@click.option("--alpha", type=float, default=0.05, show_default=True)
@click.option("--power", type=float, default=0.8, show_default=True)
@click.option("--margin", type=float, default=0.0, help="Show non-inferiority by this (absolute) margin.")
@click.option("--arms", type=int, default=2, show_default=True, help="Equal shares, the control included.")
@click.option("--allocation", metavar="F,F,...", help="Shares instead, control first.")
@click.option("--variance-reduction", type=float, default=0.0, help="What covariates take away, in [0, 1).")
@click.option(
    "--design",
    type=click.Choice(["fixed", "group-sequential", "yeast", "always-valid"]),
    default="fixed",
    show_default=True,
    help="One look, planned looks, all the time to a horizon, all the time.",
)
@click.option("--looks", type=int, default=5, show_default=True, help="Of group-sequential.")
@click.option("--spending", type=click.Choice(["obrien-fleming", "pocock"]), default="obrien-fleming")
@click.option("--units-per-day", type=float, help="New units a day, all variants together.")
@click.option("--exposure-share", type=float, default=1.0, show_default=True, help="Of them that enter.")
@click.option("--weeks-max", type=int, default=8, show_default=True, help="Your patience.")
@click.option("--figure", type=click.Path(dir_okay=False, path_type=Path), help="Write the curve as HTML.")
@click.option("--json", "as_json", is_flag=True, help="The answer as JSON.")
def power_command(*, figure: Path | None, as_json: bool, **options: Any) -> None:
    """How many units and weeks an experiment needs, or what it can find.

    From 10 % to 11 %, with 5,000 new units a day, looked at all the time:

        wald power --baseline 0.1 --effect 0.01 --units-per-day 5000 --design always-valid
    """
    from app.cli.power import show_power  # noqa: PLC0415 - each command loads only what it needs

    show_power(options, figure=figure, as_json=as_json)


@click.command("agreement")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--raters", required=True, metavar="A,B,...", help="The columns with the ratings, two or more.")
@click.option(
    "--scale",
    type=click.Choice(["nominal", "ordinal", "interval"]),
    default="nominal",
    show_default=True,
    help="Categories, ordered grades as numbers, or numbers whose differences count.",
)
@click.option("--unit", metavar="COL", help="What several items belong to, such as a conversation.")
@click.option("--where", type=Condition(), multiple=True, help="Only rows with this value; may be repeated.")
@decimal_option
@click.option("--alpha", type=click.FloatRange(1e-6, 0.5), default=0.05, show_default=True)
@json_option
def agreement_command(*, file: Path, raters: str, as_json: bool, **options: Any) -> None:
    """Measure how far raters agree beyond chance, from a file with one row per item.

    Each rater is a column; an empty cell is an item that the rater did not rate. Compare a judge with people
    before you trust its scores:

        wald agreement labels.csv --raters judge,alice,bob --unit conversation
    """
    from app.cli.agreement import show_agreement  # noqa: PLC0415 - each command loads only what it needs

    show_agreement(file, raters=raters, as_json=as_json, options=options)
