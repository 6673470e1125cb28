"""Stands in for `wald serve` and `wald worker` where only their lives matter.

`stand_in.py serve --port PORT` answers every path with 200; `stand_in.py worker` waits. On SIGTERM they add
their name to the file JOURNAL and end; with STUBBORN=1 they do not listen to it.
"""

import os
import signal
import socket
import sys
from pathlib import Path

kind, *arguments = sys.argv[1:]


def end(*_: object) -> None:
    with Path(os.environ["JOURNAL"]).open("a") as journal:
        journal.write(f"{kind}\n")
    sys.exit(0)


signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("STUBBORN") else end)
if kind == "worker":
    while True:
        signal.pause()
with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((os.environ["WALD_HOST"], int(arguments[1])))
    listener.listen()
    while True:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
