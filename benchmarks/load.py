"""A load generator: keep-alive connections on one epoll, one request in flight on each."""

import select
import socket
from collections.abc import Sequence
from itertools import cycle
from time import perf_counter
from typing import NamedTuple


class Load(NamedTuple):
    """Rate, latencies and errors of a server under load. Only answers with a 2xx status count."""

    rate: float  # requests a second
    p50_ms: float
    p99_ms: float
    errors: int


def request(method: str, path: str, *, key: str = "", body: bytes = b"") -> bytes:
    """Return an HTTP/1.1 request with a JSON body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


def run(port: int, requests: Sequence[bytes], *, connections: int, seconds: float) -> Load:
    """Send `requests` in a cycle for `seconds`. Raises OSError if a connection closes."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    sent_at: dict[int, float] = {}
    partial: dict[int, bytes] = {}
    latencies: list[float] = []
    errors = 0
    following = cycle(requests)
    try:
        for _ in range(connections):
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sockets[connection.fileno()] = connection
            poll.register(connection.fileno(), select.EPOLLIN)
        begun = perf_counter()
        for number, connection in sockets.items():
            sent_at[number] = perf_counter()
            connection.sendall(next(following))
        while (now := perf_counter()) < begun + seconds:
            for number, _ in poll.poll(1):
                received = sockets[number].recv(16_384)
                if not received:
                    raise ConnectionResetError("the server closed a connection")
                if number in partial:
                    received = partial.pop(number) + received
                if not _complete(received):
                    partial[number] = received
                    continue
                now = perf_counter()
                latencies.append(now - sent_at[number])
                errors += not received.startswith(b"HTTP/1.1 2")
                sent_at[number] = now
                sockets[number].sendall(next(following))
    finally:
        for connection in sockets.values():
            connection.close()
        poll.close()
    latencies.sort()
    n = len(latencies)
    return Load(
        rate=(n - errors) / (now - begun),
        p50_ms=latencies[n // 2] * 1e3,
        p99_ms=latencies[n * 99 // 100] * 1e3,
        errors=errors,
    )


def _complete(response: bytes) -> bool:
    """Return whether all bytes of the response have arrived."""
    end = response.find(b"\r\n\r\n")
    start = response.find(b"content-length: ")
    return end >= 0 and len(response) >= end + 4 + int(response[start + 16 : response.find(b"\r", start)])
