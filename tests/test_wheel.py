"""The wheel is an application that brings its migrations."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from app.core import schema

SOURCES = ("app", "bandits", "stats", "migrations", "pyproject.toml", "setup.py", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a wheel that was built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in SOURCES:
        if Path(name).is_dir():
            shutil.copytree(name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    built = subprocess.run([*pip, "--wheel-dir", folder, source], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(site: Path, *arguments: str) -> str:
    """Run Python with the unpacked wheel in front of the checkout."""
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        cwd=site.parent,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_wheel_has_no_other_packages_than_ours(unpacked: Path) -> None:
    names = {path.name for path in unpacked.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"app", "bandits", "stats"}


def test_installed_wheel_finds_its_migrations(unpacked: Path) -> None:
    code = (
        "from app.core import migrations, schema\n"
        "print(schema.FOLDER, migrations.head(), *schema.revisions())"
    )
    folder, head, *revisions = run(unpacked, "-c", code).split()
    assert Path(folder) == unpacked / "app/migrations"
    assert revisions == schema.revisions()
    assert head == revisions[-1]
    assert "migrate" in run(unpacked, "-m", "app.cli", "migrate", "--help")


def test_wheel_has_every_file_that_the_code_reads(unpacked: Path) -> None:
    read = {".py", ".sql", ".lua", ".html", ".css", ".js", ".svg", ".mako", ".typed"}
    for folder, place in (
        ("app", "app"),
        ("bandits", "bandits"),
        ("stats", "stats"),
        ("migrations", "app/migrations"),
    ):
        files = {path.relative_to(folder) for path in Path(folder).rglob("*") if path.suffix in read}
        packed = {path.relative_to(unpacked / place) for path in (unpacked / place).rglob("*")}
        assert files - packed == set()
