"""The consumer of responses: workers that die at any moment store each response once."""

import asyncio
import random

import pytest

from app.core.valkey import RESPONSES, create_client, shard_key
from tests.responses.conftest import Product
from tests.support.serving import ensure_keys, served
from tests.support.working import working

pytestmark = pytest.mark.anyio

STORED = "SELECT count(*), count(DISTINCT response_key), count(DISTINCT seq) FROM response_keys"


async def test_workers_that_die_again_and_again_store_each_response_once(
    database_url: str, valkey_url: str
) -> None:
    chance = random.Random(7)
    await ensure_keys(database_url, valkey_url)
    async with served(database_url, valkey_url) as server, server.client() as client:
        product = Product(client, database_url)
        await product.start()
        tokens = [(await product.assign(f"u{number}"))["assignment_id"] for number in range(60)]

        async def produce() -> None:
            sent = [
                {"assignment_id": token, "response": "x" * 500, "response_id": f"r{number}", "cost_usd": 0.5}
                for number, token in enumerate(tokens)
            ]
            for start in range(0, len(sent), 4):
                await product.rate(response_id=f"r{start}", signal="thumbs_up")
                await product.respond(*sent[start : start + 4], *chance.sample(sent[: start + 4], 2))

        async def die_again_and_again(owner: str) -> None:
            while True:
                async with working(server, owner):
                    await asyncio.sleep(chance.uniform(0.05, 0.4))

        dying = [asyncio.create_task(die_again_and_again(owner)) for owner in ("a", "b")]
        await produce()
        for task in dying:
            task.cancel()
        await asyncio.gather(*dying, return_exceptions=True)
        async with working(server):
            await product.settled()
        assert product.rows(STORED) == [(60, 60, 60)]
        costs = "SELECT count(*), sum(value) FROM signals WHERE signal = 'cost_usd'"
        assert product.rows(costs) == [(60, 30.0)]
        assert product.rows("SELECT sum(rewards)::int FROM totals") == [(15,)]
        assert product.rows("SELECT count(*) FROM response_feedback") == [(0,)]
        assert product.rows("SELECT count(*) FROM dead_letters") == [(0,)]


async def test_an_unreadable_entry_becomes_a_dead_letter_and_the_others_are_stored(
    product: Product, valkey_url: str
) -> None:
    await product.start()
    token = (await product.assign("u1"))["assignment_id"]
    async with create_client(valkey_url) as valkey:
        broken = {"k": "r", "n": "1", "b": b"not a list"}
        await valkey.xadd(shard_key(RESPONSES, "events"), broken)
        await valkey.incrby(shard_key(RESPONSES, "appended"), 1)
    await product.respond({"assignment_id": token, "response": "x"})
    await product.until("SELECT count(*) FROM response_keys", 1)
    await product.settled()
    assert product.rows("SELECT shard FROM dead_letters") == [(-1,)]
