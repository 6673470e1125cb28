"""The command `wald rebuild`, on the engines themselves."""

import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import rich_click as click

from app.cli.engines import Stores, run_on_stores
from app.cli.options import engine_options, json_option
from app.cli.terminal import err, show

if TYPE_CHECKING:  # loads numerical libraries and the clients of both engines
    from app.allocation.service import Rebuilt


@click.command("rebuild")
@engine_options
@json_option
def rebuild_command(*, as_json: bool, **flags: Any) -> None:
    """Compute rewards, totals and shares again from the log, and publish them.

        wald rebuild --database-url postgresql://db/wald --valkey-url redis://valkey

    It is harmless at any time. It prints what differed from the log; then the exit status is 1.
    """
    from app.access.service import AccessService
    from app.access.store import AccessStore
    from app.allocation.service import AllocationService
    from app.allocation.store import AllocationStore
    from app.core.clock import SystemClock
    from app.ledger.rebuild import rebuild_totals

    async def run(stores: Stores) -> None:
        settings, engine, valkey = stores
        assert settings.database_url is not None
        allocation = AllocationService(AllocationStore(engine, valkey), SystemClock())
        with err().status("Reading the log"):
            rebuilt = await allocation.rebuild(partial(rebuild_totals, settings.database_url))
        await AccessService(AccessStore(engine, valkey), SystemClock()).publish()
        differences = list(_differences(rebuilt))
        agreement = "Log, totals and shares agree bit for bit; everything is published."
        text = agreement if rebuilt.equal else "\n".join(differences)
        show({"equal": rebuilt.equal, "differences": differences}, text, as_json=as_json)
        if not rebuilt.equal:
            sys.exit(1)

    run_on_stores(flags, run)


def _differences(rebuilt: "Rebuilt") -> Iterator[str]:
    """Yield a sentence for each difference."""
    yield from map(str, rebuilt.ledger)
    for experiment_id in rebuilt.weights:
        yield f"experiment {experiment_id}: its shares differed from its totals"
