"""`/assign` against its floors: how much is left of what a bare HTTP server can do.

The server has one core, load generator and Valkey (`appendfsync always`) the other. Floor: a bare ASGI
function on granian or uvicorn, whichever is faster. `plain`: a typed Litestar handler that awaits one XADD
per request, and neither draws, signs nor checks a key. Expect durable answers to lose most at few
connections, where a flush holds few exposures, and nothing to be gained over `plain` at one connection.
"""

import asyncio
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from app.core.engines import EmbeddedEngines
from benchmarks import harness, load
from benchmarks.load import Load
from tests.support.registry import API_KEY, experiment, publish

ROUNDS = 5
SECONDS = 3.0
CONNECTIONS = (64, 16)
SERVER = "benchmarks.server"


class Registry(NamedTuple):
    """What one server loads; each has a database of its own."""

    experiments: int
    variants: int
    stickiness: str


REGISTRIES = {
    "few": Registry(10, 2, "none"),
    "many": Registry(10_000, 2, "none"),
    "sticky K = 2": Registry(10, 2, "unit"),
    "sticky K = 10": Registry(10, 10, "unit"),
    "sticky K = 50": Registry(10, 50, "unit"),
}


def measure(*, rounds: int = ROUNDS, seconds: float = SECONDS) -> dict[str, Any]:
    """Run everything, print the table, and give the figures for `baseline.json`."""
    harness.pin(harness.LOAD_CORE)
    with tempfile.TemporaryDirectory(prefix="wald-bench-") as folder:
        return asyncio.run(_on_engines(Path(folder), rounds, seconds))


async def _on_engines(folder: Path, rounds: int, seconds: float) -> dict[str, Any]:
    async with EmbeddedEngines(folder / "data", postgres=False) as engines:
        urls = {name: f"{engines.valkey_url}?db={number}" for number, name in enumerate(REGISTRIES)}
        for name, registry in REGISTRIES.items():
            await publish(urls[name], *_experiments(registry))
        with _servers(urls) as ports:
            figures = {}
            for connections in CONNECTIONS:
                runs = {name: partial(_run, port, name, connections, seconds) for name, port in ports.items()}
                figures[connections] = harness.interleaved(runs, rounds=rounds)
    return _report(figures)


def _experiments(registry: Registry) -> list[Any]:
    return [
        experiment(
            f"exp-{number}", id=number, shares=[1.0] * registry.variants, stickiness=registry.stickiness
        )
        for number in range(1, registry.experiments + 1)
    ]


@contextmanager
def _servers(urls: dict[str, str]) -> Iterator[dict[str, int]]:
    few = urls["few"]
    commands = {
        "floor granian": ("benchmarks.floor", "granian"),
        "floor uvicorn": ("benchmarks.floor", "uvicorn"),
        "durable": (SERVER, "wald", few, "durable"),
        "10,000 experiments": (SERVER, "wald", urls["many"], "durable"),
        "accepted": (SERVER, "wald", few, "accepted"),
        "plain": (SERVER, "plain", few),
        **{name: (SERVER, "wald", urls[name], "durable") for name in REGISTRIES if name.startswith("sticky")},
    }
    with ExitStack() as stack:
        yield {name: stack.enter_context(harness.server(*command)) for name, command in commands.items()}


def _run(port: int, name: str, connections: int, seconds: float) -> Load:
    n = 10_000 if name == "10,000 experiments" else 10
    requests = [
        load.request("GET", f"/assign?experiment=exp-{1 + number * 7 % n}&unit=user-{number}", key=API_KEY)
        for number in range(10_000)
    ]
    result = load.run(port, requests, connections=connections, seconds=seconds)
    if result.errors:
        raise RuntimeError(f"{name}: {result.errors} answers were errors")
    return result


def _report(figures: dict[int, dict[str, list[Load]]]) -> dict[str, Any]:
    baseline: dict[str, Any] = {}
    rows = []
    for connections, runs in figures.items():
        median = {
            name: Load(
                rate=harness.middle([load.rate for load in loads]),
                p50_ms=harness.middle([load.p50_ms for load in loads]),
                p99_ms=harness.middle([load.p99_ms for load in loads]),
                errors=int(harness.middle([load.errors for load in loads])),
            )
            for name, loads in runs.items()
        }
        floor = max(median["floor granian"], median["floor uvicorn"])
        for name, found in median.items():
            rows.append(
                [
                    name,
                    str(connections),
                    f"{found.rate:,.0f}",
                    f"{found.rate / floor.rate:.2f}",
                    f"{found.p50_ms:.2f}",
                    f"{found.p99_ms:.2f}",
                ]
            )
        baseline[f"connections_{connections}"] = _ratios(median, floor) | {
            "10000_experiments_of_10": _paired(runs, "10,000 experiments", "durable"),
            "sticky_10_variants_of_2": _paired(runs, "sticky K = 10", "sticky K = 2"),
            "sticky_50_variants_of_2": _paired(runs, "sticky K = 50", "sticky K = 2"),
        }
    harness.show("GET /assign", ["", "connections", "requests/s", "of the floor", "p50 ms", "p99 ms"], rows)
    return baseline


def _ratios(median: dict[str, Load], floor: Load) -> dict[str, float]:
    durable = median["durable"]
    figures = {
        "floor_per_s": floor.rate,
        "durable_of_floor": durable.rate / floor.rate,
        "accepted_of_floor": median["accepted"].rate / floor.rate,
        "durable_of_plain": durable.rate / median["plain"].rate,
        "durable_added_p99_ms": durable.p99_ms - floor.p99_ms,
        "durable_p99_of_p50": durable.p99_ms / durable.p50_ms,
    }
    return {name: harness.middle([value]) for name, value in figures.items()}


def _paired(runs: dict[str, list[Load]], name: str, other: str) -> float:
    """The median over the rounds of one rate over the other: what a slow minute does to both cancels."""
    return harness.middle([one.rate / two.rate for one, two in zip(runs[name], runs[other], strict=True)])


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
