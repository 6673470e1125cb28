"""Bounds of allocation and of the kill switch."""

from typing import Final

NOT_STORED_CHECK_S: Final = 60.0
"""Pause between two looks for experiments whose published form is not stored in PostgreSQL."""

KILLS_POLL_S: Final = 1.0
"""Pause between two looks at the kills in PostgreSQL, should its notification not arrive."""

KILLS_READ_S: Final = 3.0
"""Time limit of one look."""

KILLS_RETRY_S: Final = 0.5
"""Pause before the next connection to PostgreSQL."""
