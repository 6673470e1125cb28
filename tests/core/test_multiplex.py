"""One connection for all: each caller gets its own reply, or learns that there is none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hiredis
import pytest

from app.core.errors import Unavailable
from app.core.multiplex import MultiplexedConnection
from app.core.valkey import create_client
from tests.support.polling import eventually

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def connected(url: str, *, deadline_s: float = 5) -> AsyncIterator[MultiplexedConnection]:
    connection = MultiplexedConnection(url, deadline_s=deadline_s)
    await connection.start()
    try:
        yield connection
    finally:
        await connection.stop()


async def test_each_caller_gets_its_own_reply(valkey_url: str):
    async with connected(valkey_url) as connection:
        sent = [f"text {number}" for number in range(1_000)]
        replies = await asyncio.gather(*(connection.ask("ECHO", text) for text in sent))
        assert [reply.decode() for reply in replies] == sent


async def test_an_error_goes_to_its_own_caller_only(valkey_url: str):
    async with connected(valkey_url) as connection:
        before, wrong, after = (
            connection.ask("ECHO", "a"),
            connection.ask("NOSUCH"),
            connection.ask("ECHO", "b"),
        )
        assert (await before, await after) == (b"a", b"b")
        with pytest.raises(hiredis.ReplyError, match="unknown command"):
            await wrong
        assert connection.connected


async def test_a_caller_that_goes_away_leaves_the_others_their_replies(valkey_url: str):
    async with connected(valkey_url) as connection:
        asked = [connection.ask("ECHO", str(number)) for number in range(10)]
        asked[4].cancel()
        replies = await asyncio.gather(*asked, return_exceptions=True)
        assert [reply for reply in replies if isinstance(reply, bytes)] == [
            b"%d" % n for n in range(10) if n != 4
        ]


async def test_a_late_reply_never_answers_another_command(valkey_url: str):
    async with connected(valkey_url, deadline_s=0.1) as connection, create_client(valkey_url) as other:
        await other.execute_command("CLIENT", "PAUSE", "300", "ALL")
        late = [connection.ask("ECHO", "late"), connection.ask("INCR", "counter")]
        for one in late:
            with pytest.raises(Unavailable, match="no reply"):
                await one
        with pytest.raises(Unavailable, match="not connected"):
            await connection.ask("ECHO", "now")
        await eventually(lambda: connection.connected)
        assert await connection.ask("ECHO", "new") == b"new"
        assert int(await other.get("counter") or 0) <= 1  # never sent twice


async def test_it_uses_the_database_and_the_password_of_the_url(valkey_url: str):
    async with create_client(valkey_url) as admin:
        await admin.execute_command("ACL", "SETUSER", "tester", "on", ">secret", "allkeys", "allcommands")
        path = valkey_url.removeprefix("unix://")
        async with connected(f"unix://tester:secret@{path}?db=3") as connection:
            await connection.ask("SET", "where", "three")
        async with create_client(f"{valkey_url}?db=3") as three:
            assert await three.get("where") == b"three"
        async with connected(f"unix://tester:wrong@{path}") as refused:
            assert not refused.connected
        await admin.execute_command("ACL", "DELUSER", "tester")


async def test_commands_in_flight_fail_at_the_end(valkey_url: str):
    async with connected(valkey_url) as connection:
        asked = connection.ask("BLPOP", "nothing", 0)
    with pytest.raises(Unavailable, match="closed"):
        await asked
