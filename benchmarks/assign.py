"""`/assign` relative to a bare HTTP server.

The server has one core; the load generator and Valkey (`appendfsync always`) have the other. The
reference is a bare ASGI function on granian or uvicorn, whichever is faster. `plain` is a typed
Litestar handler that awaits one XADD per request and does not draw, sign or check a key. Durable
answers lose most at few connections, where a flush holds few exposures. At one connection they gain
nothing over `plain`.
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
    """The experiments that one server loads from its own database."""

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
    """Run everything, print the table, and return the figures for `baseline.json`."""
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
        "reference granian": ("benchmarks.bare", "granian"),
        "reference uvicorn": ("benchmarks.bare", "uvicorn"),
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
        reference = max(median["reference granian"], median["reference uvicorn"])
        for name, load_of_server in median.items():
            rows.append(
                [
                    name,
                    str(connections),
                    f"{load_of_server.rate:,.0f}",
                    f"{load_of_server.rate / reference.rate:.2f}",
                    f"{load_of_server.p50_ms:.2f}",
                    f"{load_of_server.p99_ms:.2f}",
                ]
            )
        baseline[f"connections_{connections}"] = _ratios(median, reference) | {
            "10000_experiments_of_10": _paired(runs, "10,000 experiments", "durable"),
            "sticky_10_variants_of_2": _paired(runs, "sticky K = 10", "sticky K = 2"),
            "sticky_50_variants_of_2": _paired(runs, "sticky K = 50", "sticky K = 2"),
        }
    harness.show(
        "GET /assign", ["", "connections", "requests/s", "of the reference", "p50 ms", "p99 ms"], rows
    )
    return baseline


def _ratios(median: dict[str, Load], reference: Load) -> dict[str, float]:
    durable = median["durable"]
    figures = {
        "reference_per_s": reference.rate,
        "durable_of_reference": durable.rate / reference.rate,
        "accepted_of_reference": median["accepted"].rate / reference.rate,
        "durable_of_plain": durable.rate / median["plain"].rate,
        "durable_added_p99_ms": durable.p99_ms - reference.p99_ms,
        "durable_p99_of_p50": durable.p99_ms / durable.p50_ms,
    }
    return {name: harness.middle([value]) for name, value in figures.items()}


def _paired(runs: dict[str, list[Load]], name: str, other: str) -> float:
    """Return the median ratio of two rates over the rounds; a slow minute hits both and cancels."""
    pairs = zip(runs[name], runs[other], strict=True)
    return harness.middle([load.rate / other_load.rate for load, other_load in pairs])


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
