"""The command `wald`, as a process that has not loaded anything yet."""

import json
import os
import subprocess
import sys

LOADED = """
import json, os, sys
from app.cli import main
from click.testing import CliRunner
before = "numpy" in sys.modules
arguments = ["simulate", "--means", "0.2,0.4", "--days", "1", "--runs", "2", "--policy", "fixed", "--json"]
done = CliRunner().invoke(main, arguments)
print(json.dumps([before, done.exit_code, "numpy" in sys.modules, os.environ["OPENBLAS_NUM_THREADS"]]))
"""

STARTED = """
import json, sys
import app.server, app.worker
print(json.dumps(sorted({"scipy.stats", "scipy.signal", "statsmodels", "pandas"} & sys.modules.keys())))
"""


def test_servers_and_workers_start_without_packages_that_take_as_long_to_load_as_all_others():
    done = subprocess.run(
        [sys.executable, "-c", STARTED], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == []


def test_linear_algebra_has_one_thread_as_it_is_loaded_after_wald_has_said_so():
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", LOADED],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == [False, 0, True, "1"]
