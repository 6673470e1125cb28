"""`wald up` with stand-ins for its programs, telling what happens in lines of JSON."""

import asyncio
import json
import sys
from pathlib import Path

import uvloop

from app.core.errors import WaldError
from app.core.settings import Settings
from app.up import run

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))


def tell(**fact: str) -> None:
    sys.stdout.write(json.dumps(fact) + "\n")
    sys.stdout.flush()


async def on_engines_ready(valkey_url: str, database_url: str) -> None:
    tell(valkey_url=valkey_url, database_url=database_url)


async def on_ready(url: str) -> None:
    tell(ready=url)
    await asyncio.Event().wait()  # as demo traffic does, it ends only by being cancelled


try:
    uvloop.run(run(Settings.load(), on_engines_ready=on_engines_ready, on_ready=on_ready, program=STAND_IN))
except WaldError as error:
    tell(error=error.detail)
    sys.exit(1)
tell(ended="in order")
