"""The packages of the wheel; everything else about it is in `pyproject.toml`.

`migrations/` is a top-level folder here and `app/migrations/` in the wheel, which `pyproject.toml`
cannot say together with the search for packages.
"""

from setuptools import find_namespace_packages, setup

setup(
    packages=[
        *find_namespace_packages(include=["app*", "stats*", "bandits*"]),
        "app.migrations",
        "app.migrations.versions",
    ],
    package_dir={"app.migrations": "migrations"},
)
