"""A bare ASGI function, the reference of `/assign`.

python -m benchmarks.bare PORT granian|uvicorn
"""

import gc
import sys
from typing import Any

import uvicorn
import uvloop

from app.core.serving import Ending, serve_http

BODY = b'{"hello":"you"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def app(scope: Any, _receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


async def main(port: int, kind: str) -> None:
    if kind == "granian":
        await serve_http(app, host="127.0.0.1", port=port, ending=Ending())
    else:
        config = uvicorn.Config(app, port=port, log_level="error", lifespan="off", access_log=False)
        gc.collect()
        gc.freeze()
        await uvicorn.Server(config).serve()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), sys.argv[2]))
