"""`make bench-bandits`: all policies beside those of other libraries, with and without a context.

Both parts print their tables and name the peers that are not installed (make installs all of them).
Figures go to `docs/figures`, numbers to `policies.json` or `policies_full.json` beside this file.
The decision times are measured first, with nothing else running; then the two parts run in
parallel. This takes about six minutes on two cores. `--full` takes an hour and a half; its standard
errors are a third as large.
"""

import argparse
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

from benchmarks import bandits, contextual
from benchmarks.harness import show

PEERS: Final = ("mabwiser", "bayesianbandits", "vowpalwabbit", "gittins", "scikit-learn")
RESULTS: Final = Path(__file__).parent / "policies.json"
RESULTS_FULL: Final = RESULTS.with_name("policies_full.json")
RUNS: Final = 100
SHUFFLES: Final = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="all seeds")
    full = parser.parse_args().full
    show("Peers", ["library", "version"], [[name, _version(name)] for name in PEERS])
    figures = bandits.decision_times() | contextual.decision_times()
    # Spawn, because peers start threads, which a fork would not copy.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as beside:
        shuffles = contextual.SHUFFLES if full else SHUFFLES
        in_context = beside.submit(contextual.measure, shuffles=shuffles)
        figures |= bandits.measure(runs=bandits.RUNS if full else RUNS)
        figures |= in_context.result()
    (RESULTS_FULL if full else RESULTS).write_text(json.dumps(figures, indent=2) + "\n")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


if __name__ == "__main__":
    main()
