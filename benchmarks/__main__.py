"""Run all benchmarks of speed, print their tables and write `baseline.json` beside this file."""

import json
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import assign, feedback, harness, ingest, readout

BASELINE = Path(__file__).parent / "baseline.json"


def main() -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    figures = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {len(harness.CORES)} cores, Python {platform.python_version()}",
        "assign": assign.measure(),
        "feedback": feedback.measure(),
        "ingest": ingest.measure(),
        "readout": readout.measure(),
    }
    BASELINE.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
