"""The command `wald simulate`. It needs no server."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import rich_click as click

from app.cli import limits
from app.cli.options import json_option
from app.cli.terminal import emit_json, err, out, progress
from app.cli.traffic import Condition, NameOrJson, Scale, decimal_option
from app.core.choices import explained
from app.core.errors import InvalidInput

if TYPE_CHECKING:  # loads numerical libraries
    from app.cli.records import Decimal
    from app.planning.model import Simulation


class Numbers(click.ParamType[tuple[float, ...]]):
    """Numbers with commas between them."""

    name = "A,B,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Read `0.1,0.12`."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"must be numbers, as in 0.1,0.12, got {value!r}", param, ctx)


class Change(click.ParamType[dict[str, Any]]):
    """DAY:A,B,..."""

    name = "DAY:A,B,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        """Read `5:0.14,0.12`."""
        if isinstance(value, dict):
            return value
        day, _, means = str(value).partition(":")
        try:
            return {"day": float(day), "means": [float(mean) for mean in means.split(",")]}
        except ValueError:
            self.fail(f"must be DAY:MEANS, as in 5:0.14,0.12, got {value!r}", param, ctx)


@click.command("simulate")
@click.option("--means", type=Numbers(), help="The mean reward of each variant, in [0, 1].")
@click.option("--drift-to", type=Numbers(), help="Means that they move to, in a straight line.")
@click.option("--drift-days", type=float, help="Within so many days. [default: all]")
@click.option("--change", type=Change(), multiple=True, help="New means from a day on; may be repeated.")
@click.option("--season", type=float, metavar="AMPLITUDE", help="Means swing by so much around theirs,")
@click.option("--season-days", type=float, default=1.0, show_default=True, help="once in so many days.")
@click.option(
    "--log",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Instead of means: CSV of logged scores, a row for each task and variant, as for `wald replay`.",
)
@click.option("--variant", metavar="COL", help="The log's column naming the variant.")
@click.option("--reward", metavar="COL", help="The log's column with the score.")
@click.option("--task", metavar="COL", help="The log's column naming the task.")
@click.option("--where", type=Condition(), multiple=True, help="Only rows with this value; may be repeated.")
@decimal_option
@click.option("--scale", type=Scale(), default="0:1", show_default=True, help="Worst and best score.")
@click.option("--requests-per-day", type=float, default=1_000, show_default=True, help="Your traffic.")
@click.option("--days", type=float, default=14.0, show_default=True, help="How long it goes on.")
@click.option("--batch", type=int, help="Requests between two updates. [default: a 200th of all]")
@click.option(
    "--delay-hours", type=float, default=0.0, show_default=True, help="Until a reward becomes known."
)
@click.option(
    "--policy",
    "policies",
    type=NameOrJson(),
    multiple=True,
    help="fixed, thompson, optimistic_thompson, top_two, ucb, epsilon_greedy, exp3_ix, or an object as in a "
    'definition, such as {"kind": "ucb", "index": "ucb1"}; may be repeated. [default: all but top_two and '
    "exp3_ix]",
)
@click.option("--runs", type=int, help="How often each is tried. [default: as many as take some seconds]")
@click.option("--seed", type=int, default=20260101, show_default=True, help="Same seed, same result.")
@click.option(
    "--figure", type=click.Path(dir_okay=False, path_type=Path), help="Write the curves as an HTML page."
)
@json_option
def simulate_command(*, figure: Path | None, as_json: bool, **options: Any) -> None:
    """Find the policy for your traffic before you serve a request.

    Say what your variants earn, or guess, and how many requests come. Every policy serves that traffic many
    times over, in simulation:

        wald simulate --means 0.10,0.12 --requests-per-day 5000 --days 14

    Feedback that comes late, means that change, drift or swing with the hour:

        wald simulate --means 0.10,0.12 --delay-hours 24
        wald simulate --means 0.10,0.12 --change 7:0.14,0.12
        wald simulate --means 0.10,0.12 --drift-to 0.12,0.10
        wald simulate --means 0.10,0.12 --season 0.03

    Rewards as you logged them:

        wald simulate --log scores.csv --variant model --reward score --task task_id --scale 1:10

    How to read it:

    * *rewards lost* (regret): how much less was earned than by always serving the best variant of the moment,
      in rewards: of thumbs up as 1 and down as 0, so many thumbs. The mean over runs, with its 95 % interval:
      policies whose intervals overlap much are not told apart by so many runs.
    * *in 1 of 20 over*: what bad luck costs. Prefer a policy that is a little worse on average to one
      that is much worse here.
    * *of the best's*: the same loss as a part of what the best variant earns, the price of exploring.
    * *best in front*: from when on the variant that is best at the end had the best average for good, in half
      of the runs; and the runs *in* which it had. A proof takes longer.

    Policies have the exploration floor of the server, 0.05, so that every variant stays observed; it costs
    that part of the traffic, for ever. With `{"kind": "thompson", "exploration_floor": 0}` there is none.
    """
    request = _request(**options)
    from app.cli import regret  # noqa: PLC0415 - loads numerical libraries
    from app.planning import model  # noqa: PLC0415

    with progress("simulating", 1.0) as advance:
        result = model.run(request, progress=advance)
    if figure is not None:
        regret.write_figure(result, figure)
        err().print(f"The figure is in {figure}.")
    if as_json:
        emit_json(result)
        return
    size = f"{result.requests:,} requests in batches of {result.batch:,}, {result.runs} runs"
    out().print(f"{size}, seed {result.seed}\n")
    out().print(regret.report(result))


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
    from app.planning import model  # noqa: PLC0415 - loads numerical libraries

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
            "say either --means, with at most one of --drift-to, --change and --season, or --log"
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
    from app.cli import logged, records  # noqa: PLC0415 - loads more than the help needs

    columns = logged.Columns(variant=variant, reward=reward, task=task, where=where, decimal=decimal)
    try:
        log = logged.read(file, columns, scale=scale)
    except (records.UnreadableLog, OSError) as error:
        raise click.ClickException(f"{file}: {error}") from error
    by_variant = zip(log.variants, zip(*(one.rewards for one in log.tasks), strict=True), strict=True)
    return {name: [log.scaled(one) for one in rewards] for name, rewards in by_variant}
