"""Bounds that three or more rooms share, and bounds of `core` itself.

A bound that one room uses is in that room's `limits.py`; a bound that two rooms share is in the
lower room. A bound that a user may reasonably want to change is a setting (`core/settings.py`).
"""

from typing import Final

# Texts
KEY_PATTERN: Final = r"^[A-Za-z0-9._-]{1,128}$(?!\n)"  # a bare $ would admit a trailing line break
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
SIGNAL_VALUE_MAX: Final = 1e9  # absolute value of a signal

# Planning and evaluation: computations that a request waits for
COMPUTATIONS_MAX: Final = 1  # at the same time in one process
COMPUTATION_SWITCH_S: Final = 0.0005  # switch interval of the interpreter meanwhile

# Clocks
CLOCK_SYNC_S: Final = 1.0  # between two comparisons with PostgreSQL's clock
CLOCK_STEP_US: Final = 10_000  # most that the shared time moves towards it at a time
CLOCK_RETURN_US: Final = 5_000  # the same, after a jump of that clock
CLOCK_JUMP_US: Final = 500_000  # a greater difference is a jump, not drift
CLOCK_ERROR_US_MAX: Final = 250_000  # half of the round trip of a reading that counts
CLOCK_KEEPER_SILENT_US: Final = 3_000_000  # then another process keeps the shared time
CLOCK_BEATS_BELIEVED: Final = 3  # beats of a keeper before we move to its time
CLOCK_WATCH_US: Final = 4_500_000  # wait for a beat at the start, if clocks disagree
CLOCK_FRESH_US: Final = 2_500_000  # a younger beat needs no confirmation
CLOCK_WATCH_PAUSE_S: Final = 0.25
CLOCK_START_S: Final = 8.0
CLOCK_AGE_SHOWN_S: Final = 60.0  # without a comparison for longer, the check fails
CLOCK_SKEW_SHOWN_S: Final = 1.0  # a larger difference from the shared time fails the check

# PostgreSQL that hangs
POSTGRES_SILENT_S: Final = 2.0  # then we open a session to see whether it reacts
POSTGRES_PULSE_S: Final = 3.0  # time limit of that session, and of any new one
POSTGRES_SILENT_AGAIN_S: Final = 0.5  # then new sessions fail at once for this long
POSTGRES_SILENT_S_MAX: Final = 35.0  # time limit of a statement; PostgreSQL ends it after 30

# Connections
CONNECTIONS_WAITING_MAX: Final = 1_024
CONNECTIONS_MAX: Final = 8_192
CONNECTIONS_EVICTED: Final = 256  # closed together; to select them takes a millisecond
DESCRIPTORS_RESERVED: Final = 256  # open files that are not client connections
REQUESTS_MAX: Final = 4_096  # in progress in the framework
PIPELINED_MAX: Final = 16  # waiting requests of one connection
PARSED_BYTES: Final = 8_192  # between two checks of bounds
TARGET_BYTES_MAX: Final = 32_768
HEADERS_MAX: Final = 100
HEAD_BYTES_MAX: Final = 65_536
FRAMED_BODY_BYTES_MAX: Final = 4 * FEEDBACK_BODY_BYTES_MAX  # includes chunk sizes and extensions
HEAD_S: Final = 10.0  # for the head of a request
BODY_S: Final = 60.0  # for the body of a request
READER_S: Final = 30.0  # for a client to read its responses
LINGER_S: Final = 2.0  # for a client to read a refusal
KEEP_ALIVE_S: Final = 75
HANDSHAKE_S: Final = 2.0
RECONNECT_S_MIN: Final = 0.05
RECONNECT_S_MAX: Final = 0.5

# Life of processes
WORKER_BEAT_S: Final = 1.0
WORKER_SILENT_S: Final = 5.0  # then `/ready` reports a missing worker
WORKER_GONE_S: Final = 60.0
READY_CHECK_S: Final = 1.0
METRICS_S: Final = 1.0
LABEL_SETS_MAX: Final = 2_000
SHUTDOWN_GRACE_S: Final = 10
RESTART_BACKOFF_S_MAX: Final = 10.0
STEADY_S: Final = 5.0  # a longer run counts as a success and resets the wait
