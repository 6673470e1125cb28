"""A server that takes feedback. `python -m benchmarks.feedback_server PORT VALKEY_URL`."""

import sys
from typing import Any

import uvloop
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from app.assignment.loop import SnapshotKeeper
from app.core.clock import SystemClock
from app.core.http import EXCEPTION_HANDLERS
from app.core.limits import FEEDBACK_DEADLINE_S
from app.core.serving import Ending, serve_http
from app.core.stream import StreamAppender
from app.feedback.commit import SignalsCommit
from app.feedback.routes import ROUTES
from app.feedback.service import FeedbackService


async def application(url: str) -> Any:
    clock = SystemClock()
    keeper = SnapshotKeeper(url, clock)
    await keeper.start()
    appender = StreamAppender(url, deadline_s=FEEDBACK_DEADLINE_S)
    await appender.start()
    service = FeedbackService(keeper, SignalsCommit(appender, shards=2), clock)
    return Litestar(
        ROUTES,
        dependencies={"feedback": Provide(lambda: service, sync_to_thread=False)},
        exception_handlers=EXCEPTION_HANDLERS,
        state=State({"access": keeper}),
        logging_config=None,
        openapi_config=None,
    )


async def main(port: int, url: str) -> None:
    await serve_http(await application(url), host="127.0.0.1", port=port, ending=Ending())


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
