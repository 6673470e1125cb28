"""The fast path on real connections: it is one server with the framework, whatever a client does."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from litestar import Litestar
from litestar.datastructures import State
from litestar.di import Provide

from app.assignment.fast_path import AssignFastPath
from app.assignment.routes import ROUTES
from app.core.fast_path import with_fast_paths
from app.core.http import EXCEPTION_HANDLERS
from app.core.serving import Ending, serve_http
from tests.assignment.conftest import running_server
from tests.support.registry import API_KEY, experiment, publish
from tests.support.server import free_port

pytestmark = pytest.mark.anyio

ASSIGN = (
    b"GET /assign?experiment=plain&unit=u HTTP/1.1\r\nHost: w\r\nAuthorization: Bearer %b\r\n"
    % API_KEY.encode()
)
NOT_FOUND = b"GET /nowhere HTTP/1.1\r\nHost: w\r\n\r\n"


class Client:
    """A raw connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Return the next one: status, headers, body."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
        return int(head[0].split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))


@pytest.fixture
async def running(valkey_url: str) -> AsyncIterator[Any]:
    """A server's port, and the event that ends it."""
    await publish(valkey_url, experiment("plain", id=1))
    async with running_server(valkey_url) as server:
        framework = Litestar(
            ROUTES,
            dependencies={"assigner": Provide(lambda: server.assigner, sync_to_thread=False)},
            exception_handlers=EXCEPTION_HANDLERS,
            state=State({"access": server.keeper}),
            openapi_config=None,
        )
        ending, port = Ending(), free_port()
        protocol = with_fast_paths(AssignFastPath(server.assigner))
        serving = asyncio.create_task(
            serve_http(framework, host="127.0.0.1", port=port, ending=ending, protocol=protocol)
        )
        yield port, ending, serving, server
        ending.begin()
        await serving


@pytest.fixture
async def client(running: Any) -> AsyncIterator[Client]:
    connection = await connect(running[0])
    yield connection
    connection.writer.close()


async def connect(port: int) -> Client:
    while True:
        try:
            return Client(*await asyncio.open_connection("127.0.0.1", port))
        except ConnectionRefusedError:
            await asyncio.sleep(0.01)


async def assert_assigned(client: Client) -> dict[str, str]:
    status, headers, body = await client.response()
    assert status == 200, body
    assert headers["content-type"] == "application/json"
    assert headers["date"]
    assert json.loads(body)["experiment"] == "plain"
    return headers


async def test_many_requests_on_one_connection(client: Client) -> None:
    for _ in range(20):
        client.writer.write(ASSIGN + b"\r\n")
        await assert_assigned(client)


async def test_a_request_that_comes_byte_by_byte(client: Client) -> None:
    for byte in ASSIGN + b"\r\n":
        client.writer.write(bytes([byte]))
        await client.writer.drain()
    await assert_assigned(client)


async def test_pipelined_requests_are_answered_in_their_order(client: Client) -> None:
    client.writer.write((ASSIGN + b"\r\n") * 3 + NOT_FOUND + ASSIGN + b"\r\n" + NOT_FOUND)
    for _ in range(3):
        await assert_assigned(client)
    assert (await client.response())[0] == 404
    await assert_assigned(client)
    assert (await client.response())[0] == 404
    client.writer.write(ASSIGN + b"\r\n")
    await assert_assigned(client)


async def test_connection_close_is_honoured(client: Client) -> None:
    client.writer.write(ASSIGN + b"Connection: close\r\n\r\n")
    headers = await assert_assigned(client)
    assert headers["connection"] == "close"
    assert await client.reader.read() == b""


async def test_http_1_0_is_answered_and_closed(client: Client) -> None:
    client.writer.write(ASSIGN.replace(b"HTTP/1.1", b"HTTP/1.0") + b"\r\n")
    await assert_assigned(client)
    assert await client.reader.read() == b""


@pytest.mark.parametrize(
    "body",
    [
        b"Content-Length: 5\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    ],
)
async def test_an_unexpected_body_is_ignored(client: Client, body: bytes) -> None:
    client.writer.write(ASSIGN + body + ASSIGN + b"\r\n")
    await assert_assigned(client)
    await assert_assigned(client)


async def test_what_the_fast_path_cannot_serve_is_refused_by_the_framework(client: Client) -> None:
    for target, status in [
        (b"/assign?experiment=unknown&unit=u", 404),
        (b"/assign?experiment=plain", 400),
        (b"/assign?experiment=plain&unit=u&unit=v", 400),
        (b"/assign?experiment=plain&unit=u#fragment", 200),
        (b"/assign", 400),
        (b"/assign/?experiment=plain&unit=u", 200),
        (b"/%61ssign?experiment=plain&unit=u", 200),
    ]:
        client.writer.write(ASSIGN.replace(b"/assign?experiment=plain&unit=u", target) + b"\r\n")
        assert (await client.response())[0] == status, target
    client.writer.write(ASSIGN.replace(API_KEY.encode(), b"wrong") + b"\r\n")
    assert (await client.response())[0] == 401
    client.writer.write(ASSIGN + b"\r\n")
    await assert_assigned(client)


async def test_garbage_closes_its_own_connection_only(client: Client, running: Any) -> None:
    other = await connect(running[0])
    other.writer.write(b"GET /assign?\x00 HTTP/9\r\n\r\n")
    assert (await other.reader.read()).startswith(b"HTTP/1.1 400")
    client.writer.write(ASSIGN + b"\r\n")
    await assert_assigned(client)


async def test_a_client_that_leaves_early_does_not_affect_others(client: Client, running: Any) -> None:
    port, _, _, server = running
    for _ in range(20):
        leaving = await connect(port)
        leaving.writer.write(ASSIGN + b"\r\n")
        leaving.writer.transport.abort()
    client.writer.write(ASSIGN + b"\r\n")
    await assert_assigned(client)
    await server.commit.drain()


async def test_requests_in_flight_at_the_end_are_answered(client: Client, running: Any) -> None:
    _, ending, serving, _ = running
    client.writer.write(ASSIGN + b"\r\n")
    await assert_assigned(client)
    client.writer.write(ASSIGN + b"\r\n")
    await client.writer.drain()
    await asyncio.sleep(0)
    ending.begin()
    await serving
    remaining = await client.reader.read()
    assert remaining == b"" or remaining.startswith(b"HTTP/1.1 200")
