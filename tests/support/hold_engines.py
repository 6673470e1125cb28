"""Run both engines on a folder until killed: `python -m tests.support.hold_engines FOLDER`.

Prints one line of JSON when they answer: {"attached": bool, "valkey": pid | null, "postgres": pid | null}.
"""

import asyncio
import json
import sys
from pathlib import Path

from app.core.engines import EmbeddedEngines


async def main() -> None:
    async with EmbeddedEngines(Path(sys.argv[1])) as engines:
        pids = {engine.name: engine.process.pid if engine.process else None for engine in engines.wanted}
        sys.stdout.write(json.dumps({"attached": engines.attached} | pids) + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


asyncio.run(main())
