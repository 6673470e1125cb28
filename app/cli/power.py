"""The command `wald power`. It needs no server."""

from pathlib import Path
from typing import Any

import rich_click as click

from app.cli import display
from app.cli.options import HTML_FILE, json_option
from app.cli.terminal import err, show
from app.core.errors import InvalidInput


@click.command("power")
@click.option(
    "--kind",
    type=click.Choice(["proportion", "mean", "ratio"]),
    default="proportion",
    show_default=True,
    help="Kind of the metric.",
)
@click.option("--baseline", type=float, help="Proportion of the control, or its mean if --relative.")
@click.option("--sd", type=float, help="For a mean: the standard deviation between units.")
@click.option("--numerator-mean", type=float, help="For a ratio: mean of the numerator per unit.")
@click.option("--denominator-mean", type=float, help="For a ratio: mean of the denominator per unit.")
@click.option("--numerator-sd", type=float, help="For a ratio: standard deviation of the numerator.")
@click.option("--denominator-sd", type=float, help="For a ratio: standard deviation of the denominator.")
@click.option("--correlation", type=float, help="For a ratio: correlation of numerator and denominator.")
@click.option("--effect", type=float, help="The effect to find. Without it: what --units can find.")
@click.option("--relative", is_flag=True, help="The effect is a share of the baseline.")
@click.option("--units", type=int, help="Number of units. With --effect, the answer is the power.")
@click.option("--alpha", type=float, default=0.05, show_default=True, help="Probability of a false alarm.")
@click.option("--power", type=float, default=0.8, show_default=True, help="Probability to find the effect.")
@click.option("--margin", type=float, default=0.0, help="Absolute non-inferiority margin.  [default: none]")
@click.option(
    "--arms", type=int, default=2, show_default=True, help="Variants with equal shares, control included."
)
@click.option("--allocation", metavar="F,F,...", help="Shares instead of --arms, control first.")
@click.option(
    "--variance-reduction",
    type=float,
    default=0.0,
    help="Share of the variance that covariates remove, in [0, 1).",
)
@click.option(
    "--pair-correlation",
    type=float,
    help="Paired design: correlation of one unit's outcomes under two variants.",
)
@click.option(
    "--design",
    type=click.Choice(["fixed", "group-sequential", "yeast", "always-valid"]),
    default="fixed",
    show_default=True,
    help="fixed: one look. group-sequential: planned looks. yeast: any look up to a horizon. "
    "always-valid: any look.",
)
@click.option("--looks", type=int, default=5, show_default=True, help="Number of looks of group-sequential.")
@click.option(
    "--spending",
    metavar="NAME[:PARAMETER]",
    default="obrien-fleming",
    show_default=True,
    help="How group-sequential spends alpha: obrien-fleming, pocock, power:RHO or hwang-shih-decani:GAMMA.",
)
@click.option("--units-per-day", type=float, help="New units per day, all variants together.")
@click.option(
    "--exposure-share", type=float, default=1.0, show_default=True, help="Share of new units that enter."
)
@click.option("--weeks-max", type=int, default=8, show_default=True, help="The longest duration to consider.")
@click.option("--figure", type=HTML_FILE, help="Write the curve as an HTML page.")
@json_option
def power_command(*, figure: Path | None, as_json: bool, **options: Any) -> None:
    """Compute how many units an experiment needs, or what it can find.

    To find a change from 10 % to 11 %, with 5,000 new units per day and a look at any time:

        wald power --baseline 0.1 --effect 0.01 --units-per-day 5000 --design always-valid
    """
    from app.planning.power import answer, question_of

    given = {name: value for name, value in options.items() if value is not None}
    given["design"] = given["design"].replace("-", "_")
    try:
        question = question_of(given)
        result = answer(question)
    except InvalidInput as error:
        option = error.errors[0].field.replace("_", "-")
        raise click.UsageError(f"--{option}: {error.detail}") from error
    if figure is not None:
        display.power.write_figure(result, figure)
        err().print(f"The figure is in {figure}.")
    show(result, lambda: display.power.report(question, result), as_json=as_json)
