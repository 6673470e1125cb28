"""Each contract holds, and each fails on a small planted violation."""

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import grimp
import pytest

from tests.architecture.contracts import (
    Imports,
    climbs,
    engine_imports,
    impurities,
    shared_entries,
)

CONTRACTS = (climbs, shared_entries, engine_imports, impurities)
Contract = Callable[[Imports], Iterator[str]]


@pytest.fixture(scope="module")
def imports() -> Imports:
    graph = grimp.build_graph("app", "bandits", "stats", include_external_packages=True)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


@pytest.mark.parametrize("contract", CONTRACTS)
def test_contract_holds(imports: Imports, contract: Contract) -> None:
    assert list(contract(imports)) == []


@pytest.mark.parametrize(
    ("contract", "planted"),
    [
        (climbs, {"app.ledger.tables": {"app.ledger.store"}}),
        (climbs, {"app.ledger.units.step": {"app.ledger.store"}}),
        (climbs, {"app.feedback.model": {"app.feedback.service"}}),
        (climbs, {"app.feedback.fast_path": {"app.feedback.routes"}}),
        (shared_entries, {"app.rollouts.service": {"app.analysis.loop"}}),
        (engine_imports, {"app.access.service": {"sqlalchemy"}}),
        (engine_imports, {"app.access.kinds": {"redis"}}),
        (impurities, {"app.analysis.series": {"time"}}),
        (impurities, {"app.analysis.series": {"app.core.loops"}, "app.core.loops": {"asyncio"}}),
    ],
)
def test_contract_fails_on_a_planted_violation(contract: Contract, planted: Imports) -> None:
    assert len(list(contract(planted))) == 1


@pytest.mark.parametrize(
    "allowed",
    [
        {"app.ledger.store": {"app.ledger.units.step", "app.ledger.tables", "psycopg"}},
        {"app.server": {"app.ledger.routes", "redis"}, "app.cli.doctor": {"psycopg"}},
        {"app.allocation.kill_store": {"redis", "app.allocation.model"}},
    ],
)
def test_contracts_allow_what_the_architecture_page_allows(allowed: Imports) -> None:
    assert [problem for contract in CONTRACTS for problem in contract(allowed)] == []


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """Packages with the names of ours, in which every module is empty."""
    settings = tomllib.loads(Path("pyproject.toml").read_text())
    for package in settings["tool"]["importlinter"]["root_packages"]:
        for path in Path(package).glob("*"):
            if path.is_dir() and path.name != "__pycache__":
                (tmp_path / path).mkdir(parents=True)
                (tmp_path / path / "__init__.py").touch()
            elif path.suffix == ".py":
                (tmp_path / path).parent.mkdir(exist_ok=True)
                (tmp_path / path).touch()
    shutil.copy("pyproject.toml", tmp_path)
    return tmp_path


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=folder,
        env={"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_new_folder_fails_until_it_is_placed_in_the_layers(skeleton: Path) -> None:
    assert lint(skeleton).returncode == 0
    (skeleton / "app/unplaced").mkdir()
    (skeleton / "app/unplaced/__init__.py").touch()
    result = lint(skeleton)
    assert (result.returncode, "app.unplaced" in result.stdout) == (1, True), result.stdout


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("app/core/clock.py", "import app.ledger"),
        ("app/analysis/series.py", "import app.evaluation"),
        ("bandits/arms.py", "import app.core"),
        ("stats/interval.py", "import bandits"),
        ("stats/interval.py", "import time"),
    ],
)
def test_layers_fail_on_a_planted_climb(skeleton: Path, path: str, code: str) -> None:
    (skeleton / path).write_text(f"{code}\n")
    assert lint(skeleton).returncode == 1
