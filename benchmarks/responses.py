"""`/responses`: bytes a second over HTTP, and growth of the text store, each with its reference.

The reference of the speed is `/feedback` with batches of 1,000 events, in the same run on the same
server. Both are counted in bytes of request bodies. Responses have a prompt and an answer of 2 KiB
each, in batches of 250. Expect a ratio of 0.5 or more: both end in Valkey's append-only file, but
an event of feedback is shortened to 70 bytes on the way, and texts are not.

The reference of the growth is the number of bytes of the texts themselves. The store, with its
indexes and keys, must grow by at most half of that. The texts are prose of pages that the
dictionary of the store was not made of.
"""

import asyncio
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import psycopg

from app.assignment import assignment_id
from app.assignment.assignment_id import Signer
from app.core import migrations
from app.core.clock import SystemClock
from app.core.engines import EmbeddedEngines
from app.core.postgres import psycopg_dsn
from app.core.valkey import RESPONSES, create_client, shard_key
from benchmarks import feedback, harness, load
from benchmarks.prose import prose
from tests.support import registry
from tests.support.responses import NOW, new_response, store_responses

RESPONSES_EACH = 250
CHARACTERS = 2_048
ROUNDS = 3
SECONDS = 4.0
CONNECTIONS = 16
STORED = 16_000


def batch(number: int) -> bytes:
    """Return a request body: responses to distinct assignments of one experiment."""
    signer = Signer([(registry.SIGNING_KEY.id, registry.SIGNING_KEY.secret)])
    now_ms = SystemClock().now_ms()
    texts = prose(2 * RESPONSES_EACH, CHARACTERS, seed=number)
    return msgspec.json.encode(
        [
            {
                "assignment_id": signer.sign(
                    assignment_id.body(
                        key_id=signer.key_id,
                        flags=0,
                        variant=index % 2,
                        experiment_id=1,
                        epoch=1,
                        policy_version=1,
                        id=assignment_id.uuid7(now_ms, number << 32 | index),
                        propensity=0.5,
                        unit_hash=index,
                    )
                ),
                "response_id": f"chatcmpl-{number}-{index}",
                "prompt": texts[2 * index],
                "response": texts[2 * index + 1],
                "model": "gpt-4o-mini",
                "latency_ms": 812.5,
                "tokens_in": 500,
                "tokens_out": 480,
                "cost_usd": 0.0004,
                "finish_reason": "stop",
            }
            for index in range(RESPONSES_EACH)
        ]
    )


def measure() -> dict[str, float]:
    """Return the bytes a second of both, their ratio, and the growth for each byte of text."""
    harness.pin(harness.LOAD_CORE)
    with tempfile.TemporaryDirectory(prefix="wald-bench-") as folder:
        return asyncio.run(_measure(Path(folder) / "data"))


async def _measure(data: Path) -> dict[str, float]:
    async with EmbeddedEngines(data) as engines:
        await registry.publish(engines.valkey_url, registry.experiment("exp", id=1))
        of_feedback = [feedback.batch(number) for number in range(8)]
        of_responses = [batch(number) for number in range(4)]
        with harness.server("benchmarks.server", "wald", engines.valkey_url) as port:

            def rate(path: str, bodies: list[bytes]) -> float:
                requests = [load.request("POST", path, key=registry.API_KEY, body=body) for body in bodies]
                done = load.run(port, requests, connections=CONNECTIONS, seconds=SECONDS)
                assert not done.errors
                return done.rate * sum(map(len, bodies)) / len(bodies)

            runs: dict[str, Callable[[], float]] = {
                "feedback": lambda: rate("/feedback", of_feedback),
                "responses": lambda: rate("/responses", of_responses),
            }
            rates = harness.interleaved(runs, rounds=ROUNDS)
        async with create_client(engines.valkey_url) as valkey:
            assert await valkey.xlen(shard_key(RESPONSES, "events"))
        growth = await _growth(engines.database_url)
    ratios = [ours / other for ours, other in zip(rates["responses"], rates["feedback"], strict=True)]
    figures = {
        "feedback_bytes_s": harness.middle(rates["feedback"]),
        "responses_bytes_s": harness.middle(rates["responses"]),
        "ratio": harness.middle(ratios),
        "growth": growth,
    }
    harness.show(
        "POST /responses, 4 kB each in batches of 250, durable",
        ["", "MB/s", "of the reference"],
        [
            ["feedback, batches of 1,000", f"{figures['feedback_bytes_s'] / 1e6:,.1f}", "1.000"],
            ["responses", f"{figures['responses_bytes_s'] / 1e6:,.1f}", f"{figures['ratio']:.3f}"],
            ["growth of the text store", "", f"{growth:.3f} of the raw text"],
        ],
    )
    return figures


async def _growth(database_url: str) -> float:
    """Return the growth of the store, with indexes and keys, for each byte of text."""
    migrations.upgrade(database_url)
    texts = prose(2 * STORED, CHARACTERS, seed=99)
    raw = sum(len(text.encode()) for text in texts)
    before = _size(database_url)
    for start in range(0, STORED, 500):
        await store_responses(
            database_url,
            [
                new_response(
                    number,
                    prompt=texts[2 * number],
                    response=texts[2 * number + 1],
                    response_id=f"chatcmpl-{number:024}",
                    at=NOW + timedelta(seconds=number),
                    model="gpt-4o-mini",
                    latency_ms=812.5,
                    tokens_in=500,
                    tokens_out=480,
                    cost_usd=0.0004,
                    finish_reason="stop",
                )
                for number in range(start, start + 500)
            ],
        )
    return (_size(database_url) - before) / raw


def _size(database_url: str) -> int:
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        row = connection.execute(
            "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
            " WHERE relkind = 'r' AND (relname LIKE 'responses%' OR relname = 'response_keys')"
        ).fetchone()
    assert row is not None
    return int(row[0])


if __name__ == "__main__":
    measure()
