"""The command `wald rebuild`, on the engines themselves."""

import sys
from functools import partial
from typing import Any

import rich_click as click

from app.access.service import AccessService
from app.access.store import AccessStore
from app.allocation.service import AllocationService
from app.allocation.store import AllocationStore
from app.core import process
from app.core.clock import SystemClock
from app.core.commands import ERR, OUT, engine_options, run_with_engines
from app.core.postgres import create_engine
from app.core.settings import Settings
from app.core.timekeeping import TimeKeeper
from app.core.valkey import create_client
from app.feedback.rebuild import rebuild_totals


@click.command("rebuild")
@engine_options
def rebuild_command(**flags: Any) -> None:
    """Compute everything anew from the log: rewards, totals, shares, and what servers load.

    Harmless at any time. Says what was not as the log has it; exit status 1 if there was anything.
    """

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        assert settings.valkey_url is not None
        await TimeKeeper(settings.database_url, process.NAME).start()
        engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
        allocation = AllocationService(AllocationStore(engine, valkey), SystemClock())
        try:
            with ERR.status("Reading the log"):
                rebuilt = await allocation.rebuild(partial(rebuild_totals, settings.database_url))
            await AccessService(AccessStore(engine, valkey), SystemClock()).publish()
        finally:
            await valkey.aclose()
            await engine.dispose()
        for total in rebuilt.ledger.totals:
            where = f"experiment {total.experiment_id}, epoch {total.epoch}, variant {total.variant}"
            OUT.print(f"{where}: totals were {total.before}, are now {total.after}")
        ledger = rebuilt.ledger
        for differing, said in (
            (ledger.learned, "what its policy learned was not what the log gives"),
            (ledger.cells, "totals of its metrics were not what its units come to"),
            (ledger.draws, "its draws and their probabilities were not what the log gives"),
            (ledger.series, "its series were not what its units come to"),
        ):
            for one in differing:
                where = f"experiment {one.experiment_id}, epoch {one.epoch}, variant {one.variant}"
                OUT.print(f"{where}: {said}")
        for counts in ledger.signals:
            named = repr(counts.signal) if counts.signal else "of other names"
            OUT.print(
                f"experiment {counts.experiment_id}: totals of signals {named} were not what the log gives"
            )
        for experiment_id in rebuilt.ledger.rewards:
            OUT.print(f"experiment {experiment_id}: a stored reward was not what its signals give")
        for experiment_id in rebuilt.weights:
            OUT.print(f"experiment {experiment_id}: its shares were not what its totals give")
        if not rebuilt.equal:
            sys.exit(1)
        OUT.print("Log, totals and shares agree bit for bit; everything is published.")

    run_with_engines(flags, run)
