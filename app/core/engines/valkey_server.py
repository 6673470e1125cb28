"""The embedded Valkey."""

import os
import signal
from pathlib import Path
from typing import Final
from urllib.parse import quote

import psutil
from redis.exceptions import RedisError

from app.core.engines import binaries
from app.core.engines.folder import DataFolder, make_private
from app.core.engines.readiness import until_ready
from app.core.limits import SHUTDOWN_GRACE_S
from app.core.process import Account, ChildProcess
from app.core.valkey import create_client

# With `everysec`, writes acknowledged during a slow fsync are lost when Valkey is killed.
_DURABILITY: Final = {
    "appendonly": "yes",
    "appendfsync": "always",
    "aof-load-truncated": "yes",
    "save": "",
    "maxmemory-policy": "noeviction",
}
_CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


class ValkeyServer:
    """Valkey on `folder`, reached by a Unix socket. Lock the folder before `start`."""

    name: Final = "valkey"

    def __init__(self, folder: DataFolder) -> None:
        self._folder = folder
        self._socket = folder.socket_folder(self.name) / "valkey.sock"
        self.url = f"unix://{quote(str(self._socket))}"
        self.process: ChildProcess | None = None

    async def start(self) -> None:
        """Start it and wait until it has loaded its data. Raises Unavailable if it cannot start."""
        if self.process is not None:
            self._folder.check_still_there(self.name)
        data = self._folder.path / self.name
        owner = Account(os.geteuid(), os.getegid())
        make_private(data, owner)
        make_private(self._socket.parent, owner)
        options = _DURABILITY | {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "maxmemory": str(_memory_bytes() // 2),
        }
        with os.fdopen(self._folder.open_log(self.name), "wb") as log:
            self.process = ChildProcess(
                [
                    binaries.valkey_server(),
                    *(word for key, value in options.items() for word in (f"--{key}", value)),
                ],
                folder=data,
                output=log,
                inherit=[self._folder.lock_descriptor],
            )
        await until_ready(self.name, self.process, self.answers, self._folder.log_path(self.name))

    async def wait(self) -> int:
        """Wait for its end; return its exit status, or minus the signal that ended it."""
        if self.process is None:
            raise RuntimeError("Valkey was not started by us")
        return await self.process.wait()

    async def stop(self) -> None:
        """Shut down in order."""
        if self.process is not None:
            await self.process.stop(signal.SIGTERM, grace_s=SHUTDOWN_GRACE_S)

    async def answers(self) -> bool:
        """Return whether a server answers on the socket with all data loaded."""
        client = create_client(self.url)
        try:
            return bool(await client.ping())
        except RedisError:
            return False
        finally:
            await client.aclose()


def _memory_bytes() -> int:
    """Return the memory of this machine or container."""
    total: int = psutil.virtual_memory().total
    try:
        return min(total, int(_CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return total
