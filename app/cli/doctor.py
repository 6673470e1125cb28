"""The command `wald doctor`, on the engines themselves."""

import sys
from typing import TYPE_CHECKING, Any

import rich_click as click
from rich.text import Text

from app.cli.display.tables import Column, Table
from app.cli.engines import run_with_urls
from app.cli.options import engine_options, json_option
from app.cli.terminal import show
from app.core.settings import Settings

if TYPE_CHECKING:  # loads the clients of both engines
    from app.cli.checks import Finding


@click.command("doctor")
@engine_options
@json_option
def doctor_command(*, as_json: bool, **flags: Any) -> None:
    """Check engines, versions, durability, schema, clocks, disk and memory. Say how to fix what is wrong.

        wald doctor --database-url postgresql://db/wald --valkey-url redis://valkey

    The exit status is 1 if something does not work, or may lose acknowledged events.
    """
    from app.cli import checks
    from app.core.clock import SystemClock

    async def run(settings: Settings) -> None:
        findings = await checks.examine(settings, SystemClock())
        show(findings, lambda: findings_table(findings), as_json=as_json)
        if any(finding.verdict is checks.Verdict.FAIL for finding in findings):
            sys.exit(1)

    run_with_urls(flags, run)


def findings_table(findings: "list[Finding]") -> Table:
    """Return a table of findings, each with what to do about it."""
    colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    table = Table(
        Column("", "text"), Column("check", "name"), Column("found", "text"), Column("what to do", "text")
    )
    for finding in findings:
        mark = Text(finding.verdict, style=colours[finding.verdict])
        table.add(mark, finding.check, finding.found, finding.fix)
    return table
