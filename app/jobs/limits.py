"""Bounds of jobs."""

from typing import Final

JOB_JITTER: Final = 0.2  # share by which a wait may be longer than planned
JOB_RETRY_AFTER_S_MAX: Final = 3_600.0
