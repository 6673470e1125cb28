"""The worker's loops of the ledger and of responses, in the process of a test."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.core.clock import SystemClock
from app.core.loops import Loops
from app.core.valkey import create_client
from app.ledger.loop import ledger_loops
from app.responses.loop import response_loops
from tests.support.serving import Served


@asynccontextmanager
async def working(served: Served, owner: str = "worker") -> AsyncIterator[Loops]:
    """Run the loops until the block ends."""
    settings = served.settings
    valkey = create_client(settings.valkey_url, socket_timeout=10)
    clock = SystemClock()
    common = {
        "owner": owner,
        "database_url": settings.database_url,
        "valkey": valkey,
        "clock": clock,
        "on_commit": lambda _: None,
    }
    loops = [*ledger_loops(shards=settings.stream_shards, **common), *response_loops(**common)]
    try:
        async with Loops(loops, clock=clock, random=random.Random(1)) as running:
            yield running
    finally:
        await valkey.aclose()
