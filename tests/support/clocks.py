"""Time that stands still until a test moves it, and clocks of processes that a test sets."""

import shutil
import struct
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest


class SettableClock:
    """Shows `at`, which may be set at will."""

    def __init__(self, at: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def now_ms(self) -> int:
        return self.now_us() // 1_000

    def now_us(self) -> int:
        return round(self.at.timestamp() * 1_000_000)

    def forward(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class ShiftedClocks:
    """Wall clocks of whole processes, by their kind, that a test sets while they run; see clock_shift.c.

    `environment` is what processes have to be started with. Counters since boot are not moved.
    """

    KINDS = ("serve", "worker", "valkey", "postgres", "other")

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            pytest.skip("no C compiler to build the library that shifts clocks")
        self._folder = folder
        for kind in self.KINDS:
            folder.joinpath(kind).write_bytes(struct.pack("d", 0.0))
        library = folder / "clock_shift.so"
        source = Path(__file__).with_name("clock_shift.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_SHIFT_DIR": str(folder)}

    def shift(self, seconds: float, *kinds: str) -> None:
        """Set the clocks of these kinds of processes, or of all, so far ahead of the true time."""
        for kind in kinds or self.KINDS:
            with self._folder.joinpath(kind).open("r+b") as file:
                file.write(struct.pack("d", seconds))
