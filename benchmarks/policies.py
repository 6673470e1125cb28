"""`make bench-bandits`: all policies beside other libraries', without a context and with one.

Both parts print their tables and say which peers are not installed (make installs all of them).
Figures go to `docs/figures`, numbers to `policies.json` or `policies_full.json` beside this file. Decisions
are timed first, with nothing beside them; then the two parts run beside each other. As it stands, this takes
about six minutes on two cores, with standard errors three times as large as those of `--full`, which takes
an hour and a half.
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
    # A fresh process: peers start threads of their own, which a fork would not take along.
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
