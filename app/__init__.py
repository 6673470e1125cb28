"""The Wald server: one package per room. ARCHITECTURE.md has their import order."""

import os
import sys

__version__ = "0.1.0"


def _leave_out_current_folder() -> None:
    """Drop the current folder from the path of `python -m app.cli`, unless this package is in it.

    Python puts that folder first. It may contain a `stats.py` or `random.py` of another project.
    """
    starting = sys.argv[:1] == ["-m"] and "app.cli" in sys.orig_argv
    folder = os.getcwd()  # noqa: PTH109  (pathlib itself may be another project's here)
    if starting and sys.path[0] == folder != __path__[0].rpartition(os.sep)[0]:
        del sys.path[0]


_leave_out_current_folder()
