"""Servers to compare. `python -m benchmarks.assign_server PORT hot|plain VALKEY_URL [accepted|durable]`."""

import sys
from random import Random
from typing import Any

import msgspec
import uvloop
from litestar import Litestar, get
from litestar.datastructures import State
from litestar.di import Provide

from app.assignment.commit import ExposureCommit
from app.assignment.hot import HotAssign
from app.assignment.loop import SnapshotKeeper
from app.assignment.routes import ROUTES
from app.assignment.service import Assigner, AssignmentView
from app.assignment.store import StickyStore
from app.core.clock import SystemClock
from app.core.http import EXCEPTION_HANDLERS
from app.core.limits import EXPOSURE_DEADLINE_S
from app.core.serving import Ending, serve_http
from app.core.settings import Durability
from app.core.stream import StreamAppender
from app.core.valkey import create_client


async def hot(url: str, durability: str) -> Any:
    """Ours: the hot path over the framework."""
    clock = SystemClock()
    keeper = SnapshotKeeper(url, clock)
    await keeper.start()
    appender = StreamAppender(url, deadline_s=EXPOSURE_DEADLINE_S)
    await appender.start()
    commit = ExposureCommit(appender, shards=2)
    assigner = Assigner(
        keeper, commit, StickyStore(appender), clock=clock, rng=Random(), durability=Durability(durability)
    )
    framework = Litestar(
        ROUTES,
        dependencies={"assigner": Provide(lambda: assigner, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        state=State({"access": keeper}),
        logging_config=None,
        openapi_config=None,
    )
    return HotAssign(framework, assigner)


async def plain(url: str) -> Any:
    """What one would write first: a typed handler that awaits one XADD per request."""
    valkey = create_client(url)

    @get("/assign")
    async def assign(experiment: str, unit: str) -> AssignmentView:
        await valkey.xadd("plain", {"experiment": experiment, "unit": unit})
        return VIEW

    return Litestar([assign], logging_config=None, openapi_config=None)


VIEW = msgspec.convert(
    {
        "experiment": "bench",
        "variant": "v0",
        "payload": {"model": "m"},
        "assignment_id": "x" * 80,
        "propensity": 0.5,
        "policy_version": 1,
        "reason": "SPLIT",
    },
    AssignmentView,
)


async def main(port: int, kind: str, url: str, durability: str = "durable") -> None:
    app = await (plain(url) if kind == "plain" else hot(url, durability))
    await serve_http(app, host="127.0.0.1", port=port, ending=Ending())


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
