"""Bounds of the programs that read files."""

from typing import Final

ROWS_MAX: Final = 50_000_000
NUMBER_MAX: Final = 1e100  # in size, so that squares of a file full of them are still finite
NUMBER_MIN: Final = 1e-100
CELL_CHARS_MAX: Final = 2**24
VALUES_SHOWN_MAX: Final = 20

DEMO_REQUESTS: Final = 3_000
"""Requests that `wald demo` serves by default: they suffice to declare its winner (`benchmarks/demo.py`)."""

SIMULATION_COMMAND_S: Final = 10.0  # of one core, if `wald simulate` is given no number of runs
SIMULATION_COMMAND_S_MAX: Final = 600.0
