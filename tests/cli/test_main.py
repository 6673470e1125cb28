"""The command `wald`, as a process that has not loaded anything yet."""

import json
import os
import subprocess
import sys

LOADED = """
import json, os, sys
from app.cli.main import main
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


def test_files_of_the_current_folder_are_not_taken_for_ours_or_those_of_python(tmp_path):
    names = ("stats.py", "random.py", "logging.py", "secrets.py", "redis.py", "asyncio.py", "click.py")
    for name in names:
        (tmp_path / name).write_text("raise SystemExit('the file of the user was executed')\n")
    for package in ("bandits", "migrations"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('executed')\n")
    command = [sys.executable, "-m", "app.cli", "power", "--baseline", "0.1", "--effect", "0.01"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
