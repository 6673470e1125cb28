"""`/feedback`: batches of 1,000 signed events over HTTP, relative to decoding the same bytes.

The reference is msgspec on the same core, into the structs that we validate, without HTTP,
signatures or durability. Expect a ratio of 0.12 or more. Below about 50 events a request, the
request itself dominates the cost.
"""

import asyncio
import gc
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import msgspec

from app.assignment import assignment_id
from app.assignment.assignment_id import Signer
from app.core.clock import SystemClock
from app.core.engines import EmbeddedEngines
from app.core.valkey import create_client, shard_key
from app.feedback.model import Event
from benchmarks import harness, load
from tests.support import registry

EVENTS = 1_000
ROUNDS = 3
SECONDS = 4.0
CONNECTIONS = 16


def batch(number: int) -> bytes:
    """Return a request body: thumbs about distinct assignments of one experiment."""
    signer = Signer([(registry.SIGNING_KEY.id, registry.SIGNING_KEY.secret)])
    now_ms = SystemClock().now_ms()
    tokens = (
        signer.sign(
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
        )
        for index in range(EVENTS)
    )
    return msgspec.json.encode(
        [
            {"assignment_id": token, "signal": ("thumbs_up", "thumbs_down")[index % 2]}
            for index, token in enumerate(tokens)
        ]
    )


def reference_rate(body: bytes, seconds: float = 1.0) -> float:
    """Return the events a second that msgspec decodes in its own process on the server's core."""
    with multiprocessing.get_context("spawn").Pool(1, harness.pin, (harness.SERVER_CORE,)) as pool:
        return pool.apply(_decode_for, (body, seconds))


def _decode_for(body: bytes, seconds: float) -> float:
    decode = msgspec.json.Decoder(list[Event]).decode
    gc.freeze()
    begun, n = perf_counter(), 0
    while (elapsed := perf_counter() - begun) < seconds:
        n += len(decode(body))
    return n / elapsed


def measure() -> dict[str, float]:
    """Return the events a second of both, and their ratio."""
    harness.pin(harness.LOAD_CORE)
    with tempfile.TemporaryDirectory(prefix="wald-bench-") as folder:
        return asyncio.run(_measure(Path(folder) / "data"))


async def _measure(data: Path) -> dict[str, float]:
    async with EmbeddedEngines(data) as engines:
        await registry.publish(engines.valkey_url, registry.experiment("exp", id=1))
        bodies = [batch(number) for number in range(8)]
        requests = [load.request("POST", "/feedback", key=registry.API_KEY, body=body) for body in bodies]
        with harness.server("benchmarks.server", "wald", engines.valkey_url) as port:

            def ours() -> float:
                done = load.run(port, requests, connections=CONNECTIONS, seconds=SECONDS)
                assert not done.errors
                return done.rate * EVENTS

            runs: dict[str, Callable[[], float]] = {
                "reference": lambda: reference_rate(bodies[0]),
                "feedback": ours,
            }
            rates = harness.interleaved(runs, rounds=ROUNDS)
        async with create_client(engines.valkey_url) as valkey:
            assert await valkey.xlen(shard_key(0, "events"))
    ratios = [ours / reference for ours, reference in zip(rates["feedback"], rates["reference"], strict=True)]
    figures = {
        "reference_events_s": harness.middle(rates["reference"]),
        "feedback_events_s": harness.middle(rates["feedback"]),
        "ratio": harness.middle(ratios),
    }
    harness.show(
        "POST /feedback, batches of 1,000, signatures checked, durable",
        ["", "events/s", "of the reference"],
        [
            ["msgspec decode alone", f"{figures['reference_events_s']:,.0f}", "1.000"],
            ["feedback", f"{figures['feedback_events_s']:,.0f}", f"{figures['ratio']:.3f}"],
        ],
    )
    return figures


if __name__ == "__main__":
    measure()
