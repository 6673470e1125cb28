"""The stream of changes: shared events, turns for other requests, and readers that do not read."""

import asyncio
from typing import Any

import msgspec
import pytest

from app.access.model import ApiKey, KeyKind, Scope, digest
from app.assignment import limits
from app.assignment.changes import ChangeFeed, ChangeStream
from app.core.clock import SystemClock
from app.core.serving import Ending, hang_up, serve_http
from tests.assignment.conftest import running_server
from tests.support.registry import ACCESS, API_KEY, experiment, publish
from tests.support.server import free_port, listening

pytestmark = pytest.mark.anyio

KEY = ApiKey(1, KeyKind.ADMIN, digest(API_KEY), frozenset(Scope))
EXPERIMENTS = 1_000
READERS = 20


class Reader:
    """The ASGI side of a client. `takes`: whether it ever takes anything."""

    def __init__(self, *, takes: bool = True) -> None:
        self.parts: list[bytes] = []
        self.gone = asyncio.Event()
        self.wrote = asyncio.Event()
        self.hung_up = False
        self._takes = takes

    @property
    def scope(self) -> dict[str, Any]:
        def abort() -> None:
            self.hung_up = True
            self.gone.set()

        return {"type": "http", "extensions": {"wald.hang_up": abort}}

    async def receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.body":
            if not self._takes:
                await asyncio.Event().wait()
            self.parts.append(message["body"])
            self.wrote.set()


async def test_all_readers_get_every_experiment_and_other_work_has_its_turn_in_between(valkey_url: str):
    await publish(valkey_url, *[experiment(f"e-{n}", id=n + 1) for n in range(EXPERIMENTS)])
    async with running_server(valkey_url) as server:
        ending = Ending()
        feed = ChangeFeed(server.keeper, ending, SystemClock())
        readers = [Reader() for _ in range(READERS)]
        turns, done = 0, asyncio.Event()

        async def other_work() -> None:
            nonlocal turns
            while not done.is_set():
                turns += 1
                await asyncio.sleep(0)

        working = asyncio.create_task(other_work())
        streams = [
            asyncio.create_task(ChangeStream(feed, KEY)(reader.scope, reader.receive, reader.send))  # type: ignore[arg-type]
            for reader in readers
        ]
        for reader in readers:
            while sum(part.count(b"event: change") for part in reader.parts) < EXPERIMENTS:
                reader.wrote.clear()
                await reader.wrote.wait()
        done.set()
        await working
        assert turns >= READERS * EXPERIMENTS / limits.CHANGES_CHUNK, "a turn for each chunk"
        first, second = await feed.since(0), await feed.since(0)
        assert all(one.text is other.text for one, other in zip(first, second, strict=True)), "written once"
        assert feed.readers == READERS

        await publish(valkey_url, experiment("e-7", id=8, revision=2))
        before = [len(reader.parts) for reader in readers]
        for reader, n_before in zip(readers, before, strict=True):
            while len(reader.parts) == n_before:
                reader.wrote.clear()
                await reader.wrote.wait()
        assert {reader.parts[-1].count(b"event: change") for reader in readers} == {1}
        ending.begin()
        await asyncio.gather(*streams)
        assert all(b"event: end" in b"".join(reader.parts[-2:]) for reader in readers)
        assert feed.readers == 0


async def test_a_reader_that_reads_nothing_is_disconnected(valkey_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "CHANGES_STALLED_S", 0.05)
    await publish(valkey_url, experiment("e", id=1))
    async with running_server(valkey_url) as server:
        feed, reader = ChangeFeed(server.keeper, Ending(), SystemClock()), Reader(takes=False)
        await ChangeStream(feed, KEY)(reader.scope, reader.receive, reader.send)  # type: ignore[arg-type]
        assert reader.hung_up
        assert feed.readers == 0


async def test_an_expired_key_ends_the_stream(valkey_url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limits, "CHANGES_CHECK_S", 0.05)
    expiring = ApiKey(9, KeyKind.SERVER, digest("expiring"), frozenset({Scope.READ}), expires_at_ms=1)
    access = msgspec.structs.replace(ACCESS, revision=2, api_keys=(*ACCESS.api_keys, expiring))
    await publish(valkey_url, experiment("e", id=1), access=access)
    async with running_server(valkey_url) as server:
        feed, reader = ChangeFeed(server.keeper, Ending(), SystemClock()), Reader()
        async with asyncio.timeout(10):
            await ChangeStream(feed, expiring)(reader.scope, reader.receive, reader.send)  # type: ignore[arg-type]
        assert b"revoked or has expired" in b"".join(reader.parts)


async def test_hanging_up_ends_the_connection_without_waiting_for_the_client():
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 10_000_000, "more_body": True})
        hang_up(scope)
        while (await receive())["type"] != "http.disconnect":
            pass

    ending, port = Ending(), free_port()
    serving = asyncio.create_task(serve_http(endless, host="127.0.0.1", port=port, ending=ending))
    await listening(port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: w\r\n\r\n")
    taken = 0
    try:
        while part := await reader.read(1 << 16):
            taken += len(part)
    except ConnectionResetError:
        pass
    assert taken < 10_000_000
    writer.close()
    ending.begin()
    await serving
