"""The command `wald replay`, over HTTP."""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import rich_click as click

from app.cli import display, terminal
from app.cli.calls import Server, drives_server
from app.cli.client import WaldClient
from app.cli.options import CSV_FILE, SCALE, decimal_option, json_option, where_option

if TYPE_CHECKING:  # loads numerical libraries
    from app.cli.files.records import Decimal


@click.command("replay")
@click.argument("file", type=CSV_FILE)
@drives_server
@click.option("--variant", "variant_column", metavar="COL", required=True, help="Column of the variant.")
@click.option("--reward", "reward_column", metavar="COL", required=True, help="Column of the score.")
@click.option(
    "--task",
    "task_column",
    metavar="COL",
    help="Column of the task. Without it, the n-th rows of all variants are one task.",
)
@where_option
@decimal_option
@click.option(
    "--scale",
    type=SCALE,
    default="0:1",
    show_default=True,
    help="The worst and the best possible score. A score outside is an error.",
)
@click.option(
    "--passes",
    type=click.IntRange(1, 10_000),
    default=1,
    show_default=True,
    help="Number of times that each task is served.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 512),
    default=32,
    show_default=True,
    help="Number of tasks in flight at once.",
)
@click.option(
    "--policy",
    type=click.Choice(["thompson", "fixed"]),
    default="thompson",
    show_default=True,
    help="thompson learns while it serves; fixed keeps equal shares.",
)
@click.option(
    "--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the order of tasks."
)
@click.option("--experiment", help="Key of the experiment to create.  [default: from file and time]")
@json_option
def replay_command(
    *,
    file: Path,
    server: Server,
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
    r"""Replay logged scores as live traffic, to see what adaptive allocation earns.

    FILE is CSV with a header. For each task, the replay asks `/assign` for a variant and sends the logged
    score of that variant to `/feedback`, through the same HTTP API that a product uses. It leaves out tasks
    on which a variant has no score, so the results of equal shares and of the best variant are known exactly.

    With nine models that were judged on a scale of 1 to 10:

        wald replay scores.csv --variant model --reward score --task task_id \
        --where judge=gpt-4o --scale 1:10 --passes 20
    """
    from app.cli.files import logged
    from app.cli.files.records import in_words
    from app.cli.traffic.replay import ReplayResult, replay

    columns = logged.Columns(
        variant=variant_column, reward=reward_column, task=task_column, where=where, decimal=decimal
    )
    with in_words(file):
        log = logged.read(file, columns, scale=scale)
    key = experiment or _experiment_key(file)
    left_out = f"; left out {log.incomplete:,} incomplete ones" if log.incomplete else ""
    if not as_json:
        terminal.out().print(f"{key}: {len(log.variants)} variants on {len(log.tasks):,} tasks{left_out}")

    async def run(client: WaldClient) -> ReplayResult:
        with terminal.progress("replaying", passes * len(log.tasks)) as advance:
            return await replay(
                client,
                log,
                experiment=key,
                policy=policy,
                passes=passes,
                concurrency=concurrency,
                seed=seed,
                progress=advance,
            )

    result = server.ask(run, connections=concurrency)
    if as_json:
        terminal.emit_json(display.traffic.replay_record(result, key))
    else:
        terminal.out().print(display.traffic.replay_report(result))
    if result.errors:
        raise click.ClickException(f"the server rejected {result.errors} of {len(result.draws)} rewards")


def _experiment_key(file: Path) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", file.stem)[:80]
    return f"replay-{stem}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
