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

REASON_LENGTH_MAX: Final = 1_000

REALLOCATION_INTERVAL_S: Final = 0.25
REALLOCATION_POLL_S: Final = 0.25  # how often it is looked for what another process made due
REALLOCATION_BATCH_MAX: Final = 200  # about a second of work, after which new commits get their turn
PUBLICATION_CHECK_S: Final = 1.0  # how soon a Valkey that lost everything is noticed
HISTORY_POINTS: Final = 200
HISTORY_DENSE_S: Final = 3_600  # older allocations are thinned to one a minute
HISTORY_THIN_INTERVAL_S: Final = 60.0
HISTORY_THIN_ROWS_MAX: Final = 10_000

FREEZES_SHOWN: Final = 100

KILL_RECORD_S: Final = 2.0  # that a kill waits for PostgreSQL
KILL_RECORD_INTERVAL_S: Final = 1.0  # between two looks for kills that are not recorded
