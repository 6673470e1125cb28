"""The commands `wald demo` and `wald replay`."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import rich_click as click

from app.cli.options import json_option

if TYPE_CHECKING:  # loads numerical libraries
    from app.cli.records import Decimal

DEMO_EXPERIMENT = "demo"

Command = TypeVar("Command", bound=Callable[..., Any])

url_option = click.option(
    "--url",
    default="http://127.0.0.1:8000",
    envvar="WALD_URL",
    show_default=True,
    show_envvar=True,
    help="Where the server is.",
)


decimal_option = click.option(
    "--decimal",
    type=click.Choice(["auto", "point", "comma"]),
    default="auto",
    show_default=True,
    help="What separates decimals in the file.",
)


def key_option(scopes: str) -> Callable[[Command], Command]:
    """`--key`, which needs these scopes."""
    return click.option(
        "--key",
        required=True,
        envvar=["WALD_API_KEY", "WALD_KEY", "WALD_ADMIN_KEY"],
        show_envvar=True,
        help=f"An API key with {scopes}.",
    )


read_key_option = key_option("the scope read")
_KEY = key_option("the scopes assign, feedback, read and admin (it defines an experiment)")


class Scale(click.ParamType[tuple[float, float]]):
    """LOW:HIGH, two numbers, low < high."""

    name = "LOW:HIGH"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float]:
        """Read `1:10`."""
        if isinstance(value, tuple):
            return value
        try:
            low, high = (float(part) for part in str(value).split(":"))
        except ValueError:
            self.fail(f"must be LOW:HIGH, as in 1:10, got {value!r}", param, ctx)
        if not low < high:
            self.fail(f"LOW must be below HIGH, got {value}", param, ctx)
        return low, high


class Condition(click.ParamType[tuple[str, str]]):
    """COLUMN=VALUE."""

    name = "COL=VALUE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Read `judge=gpt-4o`."""
        if isinstance(value, tuple):
            return value
        column, equals, wanted = str(value).partition("=")
        if not (column and equals):
            self.fail(f"must be COL=VALUE, got {value!r}", param, ctx)
        return column, wanted


class NameOrJson(click.ParamType["str | dict[str, Any]"]):
    """A name, a JSON object, or a file with one."""

    name = "NAME|JSON|@FILE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | dict[str, Any]:
        """Read `ucb`, `{"kind": "ucb", "index": "ucb1"}` or `@policy.json`."""
        if isinstance(value, dict) or not str(value).lstrip().startswith(("{", "@")):
            return value if isinstance(value, dict) else str(value)
        try:
            text = Path(value[1:]).read_text(encoding="utf-8") if value.startswith("@") else value
            policy: dict[str, Any] = json.loads(text)
        except (OSError, ValueError) as error:
            self.fail(f"is not JSON: {error}", param, ctx)
        return policy


@click.command("demo")
@url_option
@_KEY
@click.option(
    "--requests",
    type=click.IntRange(1, 10_000_000),
    default=3_000,
    show_default=True,
    help="How many requests to serve.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.1, 10_000),
    default=100,
    show_default=True,
    help="Requests a second; fewer arrive when the server is slower.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the users; the server draws."
)
@click.option(
    "--experiment", default=DEMO_EXPERIMENT, show_default=True, help="Its key; created when it is not there."
)
@json_option
def demo_command(
    *, url: str, key: str, requests: int, rate: float, seed: int, experiment: str, as_json: bool
) -> None:
    """Watch a running server learn from simulated users.

    A simulated product asks `/assign` which of three prompts serves each request. Users copy answers, ask for
    another one, give a thumb some seconds later, or stay silent. The table shows the shares of traffic
    moving to the best prompt while the server hears from them.

    Start a server first, then run the demo in a second terminal:

        wald up

        wald demo --key KEY

    Run it again to go on with the same experiment, or begin another: wald demo --experiment demo-2
    """
    from app.cli.live import run_demo  # noqa: PLC0415 - loads more than the help needs

    run_demo(url, key, requests=requests, rate=rate, seed=seed, experiment=experiment, as_json=as_json)


@click.command("replay")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@url_option
@_KEY
@click.option(
    "--variant", "variant_column", metavar="COL", required=True, help="The column naming the variant."
)
@click.option("--reward", "reward_column", metavar="COL", required=True, help="The column with the score.")
@click.option(
    "--task",
    "task_column",
    metavar="COL",
    help="The column naming the task; without it the n-th rows of all variants make a task.",
)
@click.option("--where", type=Condition(), multiple=True, help="Only rows with this value; may be repeated.")
@decimal_option
@click.option(
    "--scale",
    type=Scale(),
    default="0:1",
    show_default=True,
    help="The worst and the best possible score; a score off it is an error.",
)
@click.option(
    "--passes",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="How often every task is served.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 512),
    default=32,
    show_default=True,
    help="How many tasks are in flight at once.",
)
@click.option(
    "--policy",
    type=click.Choice(["thompson", "fixed"]),
    default="thompson",
    show_default=True,
    help="Learn while serving, or keep equal shares.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the order of tasks.")
@click.option("--experiment", help="The key of the experiment to create. [default: from file and time]")
@json_option
def replay_command(
    *,
    file: Path,
    url: str,
    key: str,
    variant_column: str,
    reward_column: str,
    task_column: str | None,
    where: tuple[tuple[str, str], ...],
    decimal: "Decimal",
    scale: tuple[float, float],
    passes: int,
    concurrency: int,
    policy: Literal["thompson", "fixed"],
    seed: int,
    experiment: str | None,
    as_json: bool,
) -> None:
    """Replay logged scores as if they came in live, to see what adaptive allocation would have earned.

    FILE is CSV with a header. Every task is asked of `/assign` and the logged score of the drawn variant is
    sent to `/feedback`, through the same HTTP API that a product uses. Tasks on which some variant has no
    score are left out, so that every draw can be answered and uniform and best are known exactly.

    With nine models judged on a scale of 1 to 10:

        wald replay scores.csv --variant model --reward score --task task_id
        --where judge=gpt-4o --scale 1:10 --passes 20
    """
    from app.cli import logged, records  # noqa: PLC0415 - loads more than the help needs
    from app.cli.live import run_replay  # noqa: PLC0415

    columns = logged.Columns(
        variant=variant_column, reward=reward_column, task=task_column, where=where, decimal=decimal
    )
    try:
        log = logged.read(file, columns, scale=scale)
    except (records.UnreadableLog, OSError) as error:
        raise click.ClickException(f"{file}: {error}") from error
    name = experiment or _experiment_key(file)
    run_replay(
        url,
        key,
        log,
        experiment=name,
        policy=policy,
        passes=passes,
        concurrency=concurrency,
        seed=seed,
        as_json=as_json,
    )


def _experiment_key(file: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem)[:80]
    return f"replay-{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
