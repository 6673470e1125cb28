"""Bounds that three or more rooms share, and bounds of `core` itself.

A bound that one room uses is in that room's `limits.py`; a bound that two rooms share is in the lower room.
A bound that a user may reasonably want to change is a setting (`core/settings.py`).
"""

from typing import Final

# Words
KEY_PATTERN: Final = r"^[A-Za-z0-9._-]{1,128}$(?!\n)"  # a bare $ would let one line break through
UNIT_LENGTH_MAX: Final = 256
DESCRIPTION_LENGTH_MAX: Final = 4_096

# Definitions
VARIANTS_MAX: Final = 50
HORIZON_S_MAX: Final = 90 * 86_400

# Requests
BODY_BYTES_MAX: Final = 1_048_576
FEEDBACK_BODY_BYTES_MAX: Final = 4_194_304
JSON_DEPTH_MAX: Final = 64
PAGE_SIZE_MAX: Final = 500
PAGE_SIZE: Final = 100

# Feedback
SIGNAL_VALUE_MAX: Final = 1e9  # in size, of a value in a sum or outside the catalogue

# Planning and evaluation: computations that a request waits for
COMPUTATIONS_MAX: Final = 1  # at a time in one process: they take turns with answers
COMPUTATION_SWITCH_S: Final = 0.0005  # how long one keeps the interpreter while an answer waits

# Clocks
CLOCK_SYNC_S: Final = 1.0  # between two comparisons with PostgreSQL's clock
CLOCK_STEP_US: Final = 10_000  # by which the shared time moves towards it at most, each time
CLOCK_RETURN_US: Final = 5_000  # by which it comes back each time after a jump of PostgreSQL's clock
CLOCK_JUMP_US: Final = 500_000  # a greater difference is a jump, not drift
CLOCK_ERROR_US_MAX: Final = 250_000  # of a reading that counts: half the time that PostgreSQL took
CLOCK_KEEPER_SILENT_US: Final = 3_000_000  # then another process keeps the shared time
CLOCK_BEATS_BELIEVED: Final = 3  # of a keeper that disagrees, after which our own time is taken to be wrong
CLOCK_WATCH_US: Final = 4_500_000  # that a process waits at its start for a beat, if clocks disagree
CLOCK_FRESH_US: Final = 2_500_000  # a beat that is younger, by the shared time, needs no second one
CLOCK_WATCH_PAUSE_S: Final = 0.25
CLOCK_START_S: Final = 8.0
CLOCK_AGE_SHOWN_S: Final = 60.0  # without a comparison for longer, the check fails
CLOCK_SKEW_SHOWN_S: Final = 1.0  # a clock that is farther from the shared time is a failed check

# PostgreSQL that hangs
POSTGRES_SILENT_S: Final = 2.0  # then it is asked whether it still reacts to anything
POSTGRES_PULSE_S: Final = 3.0  # that it has for that, and for a new session
POSTGRES_SILENT_AGAIN_S: Final = 0.5  # after a session that got no reaction, the next is refused at once
POSTGRES_SILENT_S_MAX: Final = 35.0  # of one statement, which PostgreSQL itself ends after 30

# Connections
CONNECTIONS_WAITING_MAX: Final = 1_024
CONNECTIONS_MAX: Final = 8_192
CONNECTIONS_EVICTED: Final = 256  # together, when there are more: to find them takes a millisecond
DESCRIPTORS_RESERVED: Final = 256  # open files of a server that are not connections of clients
REQUESTS_MAX: Final = 4_096  # that the framework answers at a time
PIPELINED_MAX: Final = 16  # requests of one connection that wait for the responses before theirs
PARSED_BYTES: Final = 8_192  # between two looks at bounds
TARGET_BYTES_MAX: Final = 32_768
HEADERS_MAX: Final = 100
HEAD_BYTES_MAX: Final = 65_536
FRAMED_BODY_BYTES_MAX: Final = 4 * FEEDBACK_BODY_BYTES_MAX  # with chunk sizes and their extensions
HEAD_S: Final = 10.0  # from the first byte of a request to the last of its head
BODY_S: Final = 60.0  # for the body of a request
READER_S: Final = 30.0  # without reading, of a client with unread responses
LINGER_S: Final = 2.0  # for a client to read why its connection ends
KEEP_ALIVE_S: Final = 75
HANDSHAKE_S: Final = 2.0
RECONNECT_S_MIN: Final = 0.05
RECONNECT_S_MAX: Final = 0.5

# Life of processes
WORKER_BEAT_S: Final = 1.0
WORKER_SILENT_S: Final = 5.0  # then `/ready` says that no worker is there
WORKER_GONE_S: Final = 60.0
READY_CHECK_S: Final = 1.0
METRICS_S: Final = 1.0
LABEL_SETS_MAX: Final = 2_000
SHUTDOWN_GRACE_S: Final = 10
RESTART_BACKOFF_S_MAX: Final = 10.0
STEADY_S: Final = 5.0  # what ran this long has worked, and is started again without a long wait
