"""Servers to compare.

python -m benchmarks.server PORT wald|plain VALKEY_URL [accepted|durable]
"""

import sys
from typing import Any

import msgspec
import uvloop
from litestar import Litestar, get

from app.assignment.service import AssignmentView
from app.core.serving import Ending, serve_http
from app.core.settings import Durability, Settings
from app.core.valkey import create_client
from app.server import serve


async def plain(url: str) -> Any:
    """Return the simplest server: a typed handler that awaits one XADD per request."""
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
    if kind == "plain":
        await serve_http(await plain(url), host="127.0.0.1", port=port, ending=Ending())
    # Serving does not need PostgreSQL, and here it is away.
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    await serve(Settings(valkey_url=url, database_url=nowhere, port=port, durability=Durability(durability)))


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), *sys.argv[2:]))
