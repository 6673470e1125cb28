"""Bounds of assignment: streams of changes, a server without an engine, and its snapshot file."""

from typing import Final

PUBLISHED_PAGE_ROWS: Final = 500
"""Published experiments read from PostgreSQL, or written to Valkey, in one round trip."""

DATABASE_POLL_S: Final = 1.0
"""Pause between two looks at PostgreSQL while Valkey cannot be used."""

DATABASE_ANSWER_S: Final = 4.0
"""Time that PostgreSQL has to say whether anything changed; then it counts as away."""

DATABASE_LOAD_S: Final = 30.0
"""Time limit of loading from PostgreSQL."""

SNAPSHOT_FILE_INTERVAL_S: Final = 10.0
"""Pause between two writes of a snapshot file whose experiments changed."""

SNAPSHOT_FILE_REFRESH_S: Final = 300.0
"""Pause between two writes of a snapshot file in which nothing changed except its time."""

SNAPSHOT_FILE_AGE_S_MAX: Final = 86_400.0
"""A snapshot file that was last known to be current longer ago is ignored."""

SNAPSHOT_FILE_BYTES_MAX: Final = 2 << 30
"""A larger snapshot file is neither written nor read."""

SNAPSHOT_FILE_ENCODE_MAX: Final = 200
"""Experiments that are encoded for the snapshot file between two looks at requests."""

SNAPSHOT_FILE_CHECK_S: Final = 1.0
"""Pause between two looks whether the snapshot file is due."""

CHANGES_READERS_MAX: Final = 200  # of one server process
CHANGES_CHUNK: Final = 100  # experiments in one write, between two turns of other requests
CHANGES_COMPARED: Final = 200  # experiments that are compared between two turns of other requests
CHANGES_SPACING_S: Final = 0.2  # between two writes of news to one reader
CHANGES_CHECK_S: Final = 2.0  # how often it is looked whether the reader's key has expired
CHANGES_STALLED_S: Final = 10.0  # that a reader may take for one chunk
CHANGES_HANG_UP_S: Final = 1.0

POSTERIOR_BYTES_MAX: Final = 1_048_576  # of 50 variants and 65 columns: 884,000
ASSIGN_EXPERIMENTS_MAX: Final = 100
CONTEXT_ENTRIES_MAX: Final = 64
CONTEXT_BYTES_MAX: Final = 8_192
QUERY_BYTES_MAX: Final = 16_384

EXPOSURES_PENDING_MAX: Final = 10_000
EXPOSURES_FLUSH_MAX: Final = 2_000
EXPOSURE_DEADLINE_S: Final = 1.0  # after which the answer goes out unrecorded

SNAPSHOT_POLL_S: Final = 1.0
SNAPSHOT_LOAD_MAX: Final = 500  # experiments in one command
SNAPSHOT_PREPARE_MAX: Final = 100  # experiments between two looks at requests
SNAPSHOT_REFRESH_S: Final = 10.0
REFRESH_SPACING_S: Final = 0.05
REFRESH_WAIT_S: Final = 0.5
STREAM_QUIET_S: Final = 10.0
