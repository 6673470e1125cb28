"""Clients that mean harm, against a whole Wald: memory stays bounded, and others are served all the while."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.support.server import Up, up

PIPELINED = b"GET /assign?experiment=hostile&unit=u HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer %b\r\n\r\n"
GROWTH_BYTES_MAX = 40_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("hostile") / "data") as running, running.client() as client:
        definition = {
            "key": "hostile",
            "variants": [{"key": "control", "control": True}, {"key": "b"}],
        }
        assert client.post("/experiments", json=definition).status_code == 201
        assert client.post("/experiments/hostile/start").is_success
        yield running


def connect(server: Up) -> socket.socket:
    port = int(server.url.rpartition(":")[2])
    connection = socket.create_connection(("127.0.0.1", port), timeout=5)
    connection.settimeout(0.5)
    return connection


def send(connection: socket.socket, piece: bytes, bytes_max: int) -> None:
    """Send `piece` again and again until the server stops reading or closes, or `bytes_max` were sent."""
    with suppress(OSError):
        for _ in range(bytes_max // len(piece)):
            connection.sendall(piece)


def assert_serving(server: Up) -> None:
    with server.client() as client:
        assert client.get("/health").is_success
        answer = client.get("/assign", params={"experiment": "hostile", "unit": "u"})
        assert answer.status_code == 200


def resident_bytes(server: Up) -> int:
    (process,) = server.part("serve")
    return int(process.memory_info().rss)


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (b"GET /", b"a" * 65_536),
        (b"GET / HTTP/1.1\r\n", b"a: b\r\n" * 10_000),
        (b"GET / HTTP/1.1\r\na: ", b"b" * 65_536),
        (b"POST /keys HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n" * 10_000),
        (b"POST /feedback HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", b"a" * 65_536),
    ],
    ids=["url", "headers", "header", "trailers", "body"],
)
def test_endless_requests_without_a_key_cost_no_memory(server: Up, start: bytes, piece: bytes) -> None:
    before = resident_bytes(server)
    with ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(connect(server))
            send(connection, start, len(start))
            send(connection, piece, 20_000_000)
        assert_serving(server)
        assert resident_bytes(server) - before < GROWTH_BYTES_MAX


def test_pipelining_clients_that_never_read_cost_no_memory(server: Up) -> None:
    before = resident_bytes(server)
    request = PIPELINED % server.key.encode()
    with ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(connect(server))
            send(connection, request * 100, 20_000_000)
        assert_serving(server)
        assert resident_bytes(server) - before < GROWTH_BYTES_MAX


def test_thousands_of_half_requests_leave_room_for_probes(server: Up) -> None:
    with ExitStack() as stack:
        for number in range(9_000):
            connection = stack.enter_context(connect(server))
            if number % 3:
                with suppress(OSError):
                    connection.sendall(b"GET /health HTTP/1.1\r\nHost:")
        assert_serving(server)


def test_a_key_in_a_trailer_opens_nothing(server: Up) -> None:
    with connect(server) as connection:
        connection.settimeout(10)
        connection.sendall(
            b"POST /keys HTTP/1.1\r\nHost: w\r\nContent-Type: application/json\r\nConnection: close\r\n"
            b"Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n"
            b'21\r\n{"name": "t", "scopes": ["read"]}\r\n0\r\nAuthorization: Bearer %b\r\n\r\n'
            % server.key.encode()
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 401")
