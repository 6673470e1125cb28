"""A real decision model behind `/v1/systemone`: sparrow-decider, in a process."""

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.polling import wait_until
from tests.support.processes import python
from tests.support.server import free_port


@contextmanager
def sparrow_server() -> Iterator[str]:
    """Run the server and yield its base URL."""
    port = free_port()
    with python("sparrow_decider.cli", "serve", "--port", str(port), stderr=subprocess.DEVNULL):
        wait_until(lambda: _listens(port), "sparrow-decider does not listen")
        yield f"http://127.0.0.1:{port}/v1"


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
