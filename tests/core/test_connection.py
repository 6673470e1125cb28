"""Bounds of one HTTP connection, seen by raw clients of a real server."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from random import Random
from typing import Any

import pytest
from litestar import Litestar, Request, get, post

from app.core import limits
from app.core.connection import BoundedProtocol
from app.core.http import EXCEPTION_HANDLERS
from app.core.serving import Ending, serve_http
from tests.support.server import free_port, listening

pytestmark = pytest.mark.anyio

GET = b"GET /echo HTTP/1.1\r\nHost: w\r\n\r\n"
SLOW = b"GET /slow HTTP/1.1\r\nHost: w\r\n\r\n"


class Server:
    """A running server: its port, the event that `/slow` waits for, and its open connections."""

    def __init__(self) -> None:
        self.port = free_port()
        self.released = asyncio.Event()
        self.waiting = asyncio.Event()

    async def connect(self) -> "Client":
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    def connections(self) -> list[BoundedProtocol]:
        return [one for one in gc.get_objects() if isinstance(one, BoundedProtocol)]


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of the next response."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))

    async def refusal(self, status: int) -> str:
        """Return the detail of the problem that is the last response of this connection."""
        got, headers, body = await self.response()
        assert got == status, body
        assert headers["content-type"] == "application/problem+json"
        assert headers["connection"] == "close"
        assert await self.reader.read() == b""
        problem = json.loads(body)
        assert problem["status"] == status
        return str(problem["detail"])

    async def send_until_refused(self, piece: bytes, pieces_max: int) -> int:
        """Send `piece` until the server has answered; the number of pieces that were sent."""
        for sent in range(pieces_max):
            if self.reader._buffer or self.reader.at_eof():  # type: ignore[attr-defined]
                return sent
            try:
                self.writer.write(piece)
                await self.writer.drain()
            except ConnectionError:
                return sent
            await asyncio.sleep(0)
        return pieces_max


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    running = Server()

    @get("/echo")
    async def echo(request: Request[Any, Any, Any]) -> dict[str, Any]:
        return {"headers": dict(request.headers), "url": str(request.url)}

    @post("/echo", status_code=200)
    async def echo_body(request: Request[Any, Any, Any]) -> dict[str, Any]:
        n_bytes = len(await request.body())
        return {
            "headers": dict(request.headers),
            "bytes": n_bytes,
            "trailer": request.headers.get("x-trailer"),
        }

    @get("/slow")
    async def slow() -> str:
        running.waiting.set()
        await running.released.wait()
        return "slow"

    @get("/health", sync_to_thread=False)
    def health() -> str:
        return "alive"

    @get("/large", sync_to_thread=False)
    def large() -> str:
        return "x" * 1_000_000

    app = Litestar(
        [echo, echo_body, slow, health, large],
        exception_handlers=EXCEPTION_HANDLERS,
        logging_config=None,
        openapi_config=None,
        request_max_body_size=limits.BODY_BYTES_MAX,
    )
    ending = Ending()
    serving = asyncio.create_task(serve_http(app, host="127.0.0.1", port=running.port, ending=ending))
    await listening(running.port)
    yield running
    running.released.set()
    ending.begin()
    await serving


async def assert_serving(server: Server) -> None:
    client = await server.connect()
    client.writer.write(GET)
    assert (await client.response())[0] == 200
    client.writer.close()


@pytest.mark.parametrize(
    ("start", "piece", "status"),
    [
        (b"GET /", b"a" * 8_192, 414),
        (b"GET /echo?x=", b"a" * 8_192, 414),
        (b"GET /echo HTTP/1.1\r\nHost: w\r\n", b"a: b\r\n" * 1_000, 431),
        (b"GET /echo HTTP/1.1\r\nHost: w\r\nx: ", b"a" * 8_192, 431),
        (b"GET /echo HTTP/1.1\r\nHost: w\r\n", b"a" * 8_192, 431),
        (b"GET /echo HTTP/1.1\r\nHost: w\r\n", b"%b: b\r\n" % (b"a" * 8_000), 431),
    ],
    ids=["path", "query", "headers", "value", "name", "long headers"],
)
async def test_an_endless_head_is_refused_after_its_bound(
    server: Server, start: bytes, piece: bytes, status: int
) -> None:
    client = await server.connect()
    client.writer.write(start)
    pieces = await client.send_until_refused(piece, 10_000)
    assert str(limits.TARGET_BYTES_MAX if status == 414 else limits.HEADERS_MAX) in await client.refusal(
        status
    )
    assert pieces < 10_000
    await assert_serving(server)


async def test_a_head_at_its_bounds_is_accepted_and_one_byte_more_is_not(server: Server) -> None:
    def head(n_headers: int, size: int) -> bytes:
        lines = [b"Host: w", *(b"h%d: x" % number for number in range(n_headers - 2))]
        used = len(b"/echo") + sum(len(line) - 2 + 4 for line in lines) + len(b"last") + 4
        return b"GET /echo HTTP/1.1\r\n" + b"\r\n".join([*lines, b"last: " + b"y" * (size - used), b"", b""])

    for n_headers, size, status in [
        (limits.HEADERS_MAX, 10_000, 200),
        (limits.HEADERS_MAX + 1, 10_000, 431),
        (10, limits.HEAD_BYTES_MAX, 200),
        (10, limits.HEAD_BYTES_MAX + 1, 431),
    ]:
        client = await server.connect()
        client.writer.write(head(n_headers, size))
        assert (await client.response())[0] == status, (n_headers, size)
        client.writer.close()


async def test_a_url_at_its_bound_is_accepted_and_one_byte_more_is_not(server: Server) -> None:
    for size, status in [(limits.TARGET_BYTES_MAX, 200), (limits.TARGET_BYTES_MAX + 1, 414)]:
        client = await server.connect()
        target = b"/echo?" + b"q" * (size - 6)
        client.writer.write(b"GET %b HTTP/1.1\r\nHost: w\r\n\r\n" % target)
        assert (await client.response())[0] == status
        client.writer.close()


@pytest.mark.parametrize(
    ("sent", "detail"),
    [
        (b"GET /echo HTTP/1.1\r\nHost: w\r\n", "head"),
        (b"POST /echo HTTP/1.1\r\nHost: w\r\nContent-Length: 9\r\n\r\nhalf", "body"),
        (b"POST /echo HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "body"),
    ],
)
async def test_a_request_that_is_never_completed_is_answered_408(
    server: Server, monkeypatch: pytest.MonkeyPatch, sent: bytes, detail: str
) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.01)
    monkeypatch.setattr(limits, "BODY_S", 0.01)
    client = await server.connect()
    client.writer.write(sent)
    assert detail in await client.refusal(408)


async def test_a_request_that_trickles_in_has_the_same_deadline(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.5)
    client = await server.connect()
    client.writer.write(b"GET /echo HTTP/1.1\r\n")

    async def trickle() -> None:
        while True:
            client.writer.write(b"a: b\r\n")
            await asyncio.sleep(0.1)

    trickling = asyncio.create_task(trickle())
    assert "head" in await client.refusal(408)
    trickling.cancel()


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
async def test_a_connection_without_a_request_is_closed(
    server: Server, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.01)
    client = await server.connect()
    client.writer.write(sent)
    assert await client.reader.read() == b""


async def test_an_idle_connection_is_closed_after_its_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await server.connect()
    for _ in range(2):
        client.writer.write(GET)
        assert (await client.response())[0] == 200
    monkeypatch.setattr(limits, "KEEP_ALIVE_S", 0.01)
    assert await client.reader.read() == b""


async def test_a_slow_answer_does_not_use_up_the_time_of_the_request(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEAD_S", 0.01)
    monkeypatch.setattr(limits, "BODY_S", 0.01)
    client = await server.connect()
    client.writer.write(SLOW)
    await server.waiting.wait()
    await asyncio.sleep(1.3)  # a check of deadlines has come: nothing else can be awaited here
    server.released.set()
    assert (await client.response())[0] == 200


async def test_trailers_never_become_headers(server: Server) -> None:
    client = await server.connect()
    client.writer.write(
        b"POST /echo HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\nTrailer: Authorization\r\n\r\n"
        b"4\r\nbody\r\n0\r\nAuthorization: Bearer secret\r\nX-Trailer: t\r\nHost: evil\r\n\r\n" + GET
    )
    status, _, body = await client.response()
    echoed = json.loads(body)
    assert (status, echoed["bytes"], echoed["trailer"]) == (200, 4, None)
    assert "authorization" not in echoed["headers"]
    assert echoed["headers"]["host"] == "w"
    assert (await client.response())[0] == 200


@pytest.mark.parametrize(
    ("start", "piece", "status"), [(b"0\r\n", b"a: b\r\n" * 1_000, 431), (b"1;x=", b"x" * 8_192, 413)]
)
async def test_endless_trailers_and_chunk_extensions_are_refused(
    server: Server, monkeypatch: pytest.MonkeyPatch, start: bytes, piece: bytes, status: int
) -> None:
    monkeypatch.setattr(limits, "FRAMED_BODY_BYTES_MAX", 100_000)
    client = await server.connect()
    client.writer.write(b"POST /echo HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n" + start)
    assert await client.send_until_refused(piece, 1_000) < 1_000
    await client.refusal(status)


async def test_a_body_that_goes_on_after_its_refusal_ends_the_connection(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAMED_BODY_BYTES_MAX", 100_000)
    client = await server.connect()
    client.writer.write(b"POST /echo HTTP/1.1\r\nHost: w\r\nContent-Length: 99999999999\r\n\r\n")
    assert (await client.response())[0] == 413
    assert await client.send_until_refused(b"x" * 65_536, 1_000) < 1_000


@pytest.mark.parametrize(
    ("host", "status"),
    [
        (b"w", 200),
        (b"w.example:8000", 200),
        (b"127.0.0.1:1", 200),
        (b"[::1]:65535", 200),
        (b"", 200),
        (b"w:", 200),
        (b"a:b", 400),
        (b"a:99999", 400),
        (b"a:65536", 400),
        (b"a:1:2", 400),
        (b"[::1", 400),
        (b"a b", 400),
        (b"a/b", 400),
        (b"a@b", 400),
        (b"\xff", 400),
    ],
)
async def test_an_invalid_host_is_refused(server: Server, host: bytes, status: int) -> None:
    client = await server.connect()
    client.writer.write(b"GET /echo HTTP/1.1\r\nHost: %b\r\n\r\n" % host)
    if status == 200:
        assert (await client.response())[0] == 200
    else:
        assert "Host" in await client.refusal(400)


async def test_two_hosts_that_differ_are_refused(server: Server) -> None:
    client = await server.connect()
    client.writer.write(b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    await client.refusal(400)


async def test_no_bytes_cause_an_internal_error(server: Server) -> None:
    """Valid requests with random bytes replaced, removed or repeated; each on a connection of its own."""
    chance = Random(20261201)
    seeds = [
        GET,
        b"POST /echo HTTP/1.1\r\nHost: w:80\r\nContent-Length: 4\r\n\r\nbody" + GET,
        b"POST /echo HTTP/1.1\r\nHost: w\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n" + GET,
        b"GET http://w:8/echo?a=%ff HTTP/1.1\r\nHost: [::1]:8\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"CONNECT w:443 HTTP/1.1\r\nHost: w:443\r\n\r\n" + GET,
        b"OPTIONS * HTTP/1.1\r\nHost: w\r\nExpect: 100-continue\r\n\r\n",
    ]

    async def play(sent: bytes) -> None:
        client = await server.connect()
        client.writer.write(sent)
        client.writer.write(b"\r\n\r\n\x00\r\n\r\n")  # ends the connection if nothing before it does
        async with asyncio.timeout(20):
            answer = await client.reader.read()
        assert b"HTTP/1.1 5" not in answer, (sent, answer)
        client.writer.close()

    for _ in range(60):
        batch = []
        for _ in range(10):
            request = bytearray(chance.choice(seeds))
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(request))
                request[at : at + chance.choice([0, 1, 1, 3])] = chance.choice(
                    [
                        bytes([chance.randrange(256)]),
                        b":",
                        b"\r\n",
                        b"/",
                        b"//",
                        b"%",
                        b"[",
                        b"]",
                        b"@",
                        b"#",
                        b"",
                    ]
                )
            batch.append(bytes(request))
        with suppress(ConnectionError):
            await asyncio.gather(*(play(request) for request in batch))
    await assert_serving(server)


async def test_a_refusal_comes_after_the_answers_to_earlier_requests(server: Server) -> None:
    client = await server.connect()
    client.writer.write(SLOW + GET + b"GET /echo HTTP/1.1\r\nHost: a:b\r\n\r\n" + GET)
    await server.waiting.wait()
    server.released.set()
    assert (await client.response())[2] == b"slow"
    assert (await client.response())[0] == 200
    await client.refusal(400)


async def test_a_body_that_is_refused_behind_other_requests_waits_for_their_answers(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "FRAMED_BODY_BYTES_MAX", 10_000)
    client = await server.connect()
    client.writer.write(
        SLOW + b"POST /echo HTTP/1.1\r\nHost: w\r\nContent-Length: 50000\r\n\r\n" + b"x" * 40_000
    )
    await server.waiting.wait()
    server.released.set()
    assert (await client.response())[2] == b"slow"
    await client.refusal(413)


async def test_thousands_of_pipelined_requests_are_all_answered_in_their_order(server: Server) -> None:
    client = await server.connect()
    n_requests = 3_000

    async def write() -> None:
        for number in range(n_requests):
            client.writer.write(b"GET /echo?%d HTTP/1.1\r\nHost: w\r\n\r\n" % number)
            if number % 500 == 0:
                await client.writer.drain()

    writing = asyncio.create_task(write())
    for number in range(n_requests):
        status, _, body = await client.response()
        assert (status, json.loads(body)["url"]) == (200, f"http://w/echo?{number}")
    await writing


async def test_pipelined_requests_are_read_only_as_fast_as_answers_are_taken(server: Server) -> None:
    """With the first request unanswered, the server reads one buffer of what follows and then stops."""
    client = await server.connect()
    client.writer.transport.set_write_buffer_limits(high=0)
    client.writer.write(SLOW)
    await server.waiting.wait()
    sent = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(1):  # what the kernel's buffers and the server take; then writing blocks
            while sent < 50_000_000:
                client.writer.write(GET * 1_000)
                sent += len(GET) * 1_000
                await client.writer.drain()
    assert sent < 50_000_000
    (connection,) = (one for one in server.connections() if one._n_due)
    assert len(connection.pipeline) <= limits.PIPELINED_MAX + limits.PARSED_BYTES // len(GET) + 1
    assert len(connection._unparsed) <= 1_000_000
    client.writer.transport.abort()


async def test_a_client_that_does_not_read_is_closed_in_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "READER_S", 0.01)
    client = await server.connect()
    for _ in range(30):
        client.writer.write(b"GET /large HTTP/1.1\r\nHost: w\r\n\r\n")
    received = 0
    with suppress(ConnectionError):
        await asyncio.sleep(2.5)  # not reading is what is tested
        while part := await client.reader.read(1_000_000):
            received += len(part)
    assert received < 30_000_000


async def test_half_open_connections_make_room_for_probes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BoundedProtocol, "connections_max", 50)
    monkeypatch.setattr(limits, "CONNECTIONS_EVICTED", 10)
    busy = await server.connect()
    busy.writer.write(SLOW)
    await server.waiting.wait()
    half = [await server.connect() for _ in range(200)]
    for client in half:
        with suppress(ConnectionError):
            client.writer.write(b"GET /echo HT")
    for _ in range(20):
        client = await server.connect()
        client.writer.write(b"GET /health HTTP/1.1\r\nHost: w\r\n\r\n")
        assert (await client.response())[2] == b"alive"
        client.writer.close()
    server.released.set()
    assert (await busy.response())[2] == b"slow"
    for client in half:
        client.writer.close()


async def test_probes_are_answered_while_the_server_holds_as_many_requests_as_it_can(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUESTS_MAX", 1)
    busy, client = await server.connect(), await server.connect()
    busy.writer.write(SLOW)
    await server.waiting.wait()
    client.writer.write(GET)
    status, headers, _ = await client.response()
    assert (status, headers["retry-after"], headers["content-type"]) == (503, "1", "application/problem+json")
    client.writer.write(b"GET /health HTTP/1.1\r\nHost: w\r\n\r\n")
    assert (await client.response())[2] == b"alive"
    server.released.set()
    assert (await busy.response())[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        b"Content-Length: 4\r\nContent-Length: 5\r\n",
        b"Content-Length: 4, 4\r\n",
        b"Content-Length: +4\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked, identity\r\n",
        b"Transfer-Encoding : chunked\r\n",
        b"Transfer-Encoding: xchunked\r\n",
        b"Content-Length: 99999999999999999999999\r\n",
    ],
)
async def test_a_body_of_ambiguous_length_smuggles_no_request(server: Server, headers: bytes) -> None:
    client = await server.connect()
    client.writer.write(
        b"POST /echo HTTP/1.1\r\nHost: w\r\n"
        + headers
        + b"\r\n0\r\n\r\nGET /large HTTP/1.1\r\nHost: w\r\n\r\n"
    )
    await client.refusal(400)
