"""The command `wald rebuild`, on the engines themselves."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import rich_click as click

from app.cli.options import engine_options, json_option, run_with_engines
from app.cli.terminal import emit_json, err, out
from app.core.settings import Settings

if TYPE_CHECKING:  # loads numerical libraries and the clients of both engines
    from app.allocation.service import Rebuilt


@click.command("rebuild")
@engine_options
@json_option
def rebuild_command(*, as_json: bool, **flags: Any) -> None:
    """Compute everything anew from the log: rewards, totals, shares, and what servers load.

    Harmless at any time. Says what was not as the log has it; exit status 1 if there was anything.
    """
    from app.access.service import AccessService  # noqa: PLC0415 - the help does without all this
    from app.access.store import AccessStore  # noqa: PLC0415
    from app.allocation.service import AllocationService  # noqa: PLC0415
    from app.allocation.store import AllocationStore  # noqa: PLC0415
    from app.core import process  # noqa: PLC0415
    from app.core.clock import SystemClock  # noqa: PLC0415
    from app.core.postgres import create_engine  # noqa: PLC0415
    from app.core.timekeeping import TimeKeeper  # noqa: PLC0415
    from app.core.valkey import create_client  # noqa: PLC0415
    from app.ledger.rebuild import rebuild_totals  # noqa: PLC0415

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        assert settings.valkey_url is not None
        await TimeKeeper(settings.database_url, process.NAME).start()
        engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
        allocation = AllocationService(AllocationStore(engine, valkey), SystemClock())
        try:
            with err().status("Reading the log"):
                rebuilt = await allocation.rebuild(partial(rebuild_totals, settings.database_url))
            await AccessService(AccessStore(engine, valkey), SystemClock()).publish()
        finally:
            await valkey.aclose()
            await engine.dispose()
        found = list(_differences(rebuilt))
        if as_json:
            emit_json({"equal": rebuilt.equal, "differences": found})
        else:
            for difference in found:
                out().print(difference)
        if not rebuilt.equal:
            sys.exit(1)
        if not as_json:
            out().print("Log, totals and shares agree bit for bit; everything is published.")

    run_with_engines(flags, run)


def _differences(rebuilt: "Rebuilt") -> Iterator[str]:
    """What was not as the log has it, a sentence each."""
    ledger = rebuilt.ledger
    for total in ledger.totals:
        where = f"experiment {total.experiment_id}, epoch {total.epoch}, variant {total.variant}"
        yield f"{where}: totals were {total.before}, are now {total.after}"
    for differing, said in (
        (ledger.learned, "what its policy learned was not what the log gives"),
        (ledger.cells, "totals of its metrics were not what its units come to"),
        (ledger.draws, "its draws and their probabilities were not what the log gives"),
        (ledger.series, "its series were not what its units come to"),
        (ledger.strata, "its strata were not what its units come to"),
    ):
        for one in differing:
            where = f"experiment {one.experiment_id}, epoch {one.epoch}, variant {one.variant}"
            yield f"{where}: {said}"
    for counts in ledger.signals:
        named = repr(counts.signal) if counts.signal else "of other names"
        yield f"experiment {counts.experiment_id}: totals of signals {named} were not what the log gives"
    for experiment_id in ledger.rewards:
        yield f"experiment {experiment_id}: a stored reward was not what its signals give"
    for experiment_id in rebuilt.weights:
        yield f"experiment {experiment_id}: its shares were not what its totals give"
