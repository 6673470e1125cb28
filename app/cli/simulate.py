"""The command `wald simulate`. It needs no server."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import rich_click as click

from app.cli import display, limits
from app.cli.options import (
    CSV_FILE,
    HTML_FILE,
    NAME_OR_JSON,
    SCALE,
    Parsed,
    decimal_option,
    json_option,
    numbers,
    where_option,
)
from app.cli.terminal import emit_json, err, out, progress
from app.core.choices import explained
from app.core.errors import InvalidInput

if TYPE_CHECKING:  # loads numerical libraries
    from app.cli.files.records import Decimal
    from app.planning.model import Simulation

_MEANS = Parsed("A,B,...", "0.1,0.12", numbers)


def _change(text: str) -> dict[str, Any]:
    day, _, means = text.partition(":")
    return {"day": float(day), "means": numbers(means)}


@click.command("simulate")
@click.option("--means", type=_MEANS, help="Mean reward of each variant, in [0, 1].")
@click.option("--drift-to", type=_MEANS, help="Means at the end of a drift, which is a straight line.")
@click.option("--drift-days", type=float, help="Number of days over which the means drift.  [default: all]")
@click.option(
    "--change",
    type=Parsed("DAY:A,B,...", "5:0.14,0.12", _change),
    multiple=True,
    help="New means from a day on. Repeatable.",
)
@click.option("--season", type=float, metavar="AMPLITUDE", help="Amplitude of a swing of the means.")
@click.option("--season-days", type=float, default=1.0, show_default=True, help="Days of one swing.")
@click.option(
    "--log",
    "file",
    type=CSV_FILE,
    help="Instead of means: CSV of logged scores, a row for each task and variant, as for `wald replay`.",
)
@click.option("--variant", metavar="COL", help="Column of the variant in the log.")
@click.option("--reward", metavar="COL", help="Column of the score in the log.")
@click.option("--task", metavar="COL", help="Column of the task in the log.")
@where_option
@decimal_option
@click.option("--scale", type=SCALE, default="0:1", show_default=True, help="Worst and best score.")
@click.option("--requests-per-day", type=float, default=1_000, show_default=True, help="Your traffic.")
@click.option("--days", type=float, default=14.0, show_default=True, help="Duration of the experiment.")
@click.option("--batch", type=int, help="Requests between two updates.  [default: 1/200 of all]")
@click.option(
    "--delay-hours", type=float, default=0.0, show_default=True, help="Hours until a reward is known."
)
@click.option(
    "--policy",
    "policies",
    type=NAME_OR_JSON,
    multiple=True,
    help="fixed, thompson, optimistic_thompson, top_two, ucb, epsilon_greedy, exp3_ix, or an object as in a "
    'definition, such as {"kind": "ucb", "index": "ucb1"}. Repeatable.  '
    "[default: all but top_two and exp3_ix]",
)
@click.option("--runs", type=int, help="Runs of each policy.  [default: what takes some seconds]")
@click.option(
    "--seed", type=int, default=20260101, show_default=True, help="The same seed gives the same result."
)
@click.option("--figure", type=HTML_FILE, help="Write the curves as an HTML page.")
@json_option
def simulate_command(*, figure: Path | None, as_json: bool, **options: Any) -> None:
    """Find the policy for your traffic before you serve a request.

    Give the mean rewards of your variants, or a guess, and the number of requests. Wald simulates how every
    policy serves that traffic, many times:

        wald simulate --means 0.10,0.12 --requests-per-day 5000 --days 14

    Feedback that comes late, or means that change, drift or swing with the hour:

        wald simulate --means 0.10,0.12 --delay-hours 24
        wald simulate --means 0.10,0.12 --change 7:0.14,0.12
        wald simulate --means 0.10,0.12 --drift-to 0.12,0.10
        wald simulate --means 0.10,0.12 --season 0.03

    Rewards as you logged them:

        wald simulate --log scores.csv --variant model --reward score --task task_id --scale 1:10

    How to read it:

    * *rewards lost* (regret): how much less a policy earned than a policy that always serves the best variant
      of the moment. If thumbs up count 1 and thumbs down 0, the unit is one thumb. The value is the mean over
      runs, with its 95 % interval. More runs separate policies whose intervals overlap.
    * *1 in 20 loses over*: the loss in bad luck. Prefer a policy that is a little worse on average to one
      that is much worse here.
    * *of the best's*: the same loss as a share of what the best variant earns: the price of exploring.
    * *best leads from*: the time from which the best variant at the end had the best average for good, in
      half of the runs; and the share of runs *in* which that happened. A proof takes longer.

    Policies have the exploration floor of the server, 0.05, so that every variant stays observed. The floor
    permanently costs that share of the traffic. `{"kind": "thompson", "exploration_floor": 0}` has none.
    """
    request = _request(**options)
    from app.planning import model

    with progress("simulating", 1.0) as advance:
        result = model.run(request, progress=advance)
    if figure is not None:
        display.simulate.write_figure(result, figure)
        err().print(f"The figure is in {figure}.")
    if as_json:
        emit_json(result)
        return
    size = f"{result.requests:,} requests in batches of {result.batch:,}, {result.runs} runs"
    out().print(f"{size}, seed {result.seed}\n")
    out().print(display.simulate.report(result))


def _request(
    *,
    requests_per_day: float,
    days: float,
    batch: int | None,
    delay_hours: float,
    policies: tuple[str | dict[str, Any], ...],
    runs: int | None,
    seed: int,
    **environment: Any,
) -> "Simulation":
    from app.planning import model

    described = {
        "environment": _environment(days=days, **environment),
        "traffic": {
            "requests_per_day": requests_per_day,
            "days": days,
            "batch": batch,
            "delay_s": delay_hours * 3_600,
        },
        "policies": policies or None,
        "runs": runs,
        "seed": seed,
    }
    try:
        return model.checked(
            msgspec.convert(described, model.Simulation),
            seconds_usual=limits.SIMULATION_COMMAND_S,
            seconds_max=limits.SIMULATION_COMMAND_S_MAX,
        )
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        path = path.rstrip("`")
        raise click.UsageError(f"{path}: {explained(reason, model.Simulation, path)}") from error
    except InvalidInput as error:
        reasons = "; ".join(f"{named.field}: {named.reason}" for named in error.errors)
        raise click.UsageError(reasons or str(error)) from error


def _environment(
    *,
    means: tuple[float, ...] | None,
    days: float,
    drift_to: tuple[float, ...] | None,
    drift_days: float | None,
    change: tuple[dict[str, Any], ...],
    season: float | None,
    season_days: float,
    file: Path | None,
    **columns: Any,
) -> dict[str, Any]:
    moves = [drift_to is not None, bool(change), season is not None]
    if (means is None) == (file is None) or sum(moves) > (file is None):
        raise click.UsageError(
            "give either --log, or --means with at most one of --drift-to, --change and --season"
        )
    if file is not None:
        return {"kind": "logged", "rewards": _rewards(file, **columns)}
    if drift_to is not None:
        return {
            "kind": "drifting",
            "means": means,
            "last_means": drift_to,
            "days": days if drift_days is None else drift_days,
        }
    if change:
        return {"kind": "changing", "means": means, "changes": change}
    if season is not None:
        return {"kind": "seasonal", "means": means, "amplitude": season, "period_days": season_days}
    return {"kind": "stationary", "means": means}


def _rewards(
    file: Path,
    *,
    variant: str | None,
    reward: str | None,
    task: str | None,
    where: tuple[tuple[str, str], ...],
    decimal: "Decimal",
    scale: tuple[float, float],
) -> dict[str, list[float]]:
    if variant is None or reward is None:
        raise click.UsageError("--log needs --variant and --reward, the columns to read")
    from app.cli.files import logged
    from app.cli.files.records import in_words

    columns = logged.Columns(variant=variant, reward=reward, task=task, where=where, decimal=decimal)
    with in_words(file):
        log = logged.read(file, columns, scale=scale)
    by_variant = zip(log.variants, zip(*(task.rewards for task in log.tasks), strict=True), strict=True)
    return {name: [log.scaled(reward) for reward in rewards] for name, rewards in by_variant}
