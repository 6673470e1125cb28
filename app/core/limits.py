"""Every bound of the system in one place: sizes of bodies, batches, queues, retries and waits.

A bound that a user may reasonably want to change is a setting (`core/settings.py`); these are not.
"""

from typing import Final

# Words
KEY_PATTERN: Final = r"^[A-Za-z0-9._-]{1,128}$(?!\n)"  # a bare $ would let one line break through
UNIT_LENGTH_MAX: Final = 256
EVENT_ID_LENGTH_MAX: Final = 255
DESCRIPTION_LENGTH_MAX: Final = 4_096
REASON_LENGTH_MAX: Final = 1_000

# Definitions
VARIANTS_MAX: Final = 50
VARIANTS_MIN: Final = 2
PAYLOAD_BYTES_MAX: Final = 16_384
REWARD_SIGNALS_MAX: Final = 64
OVERRIDES_MAX: Final = 1_000
METRICS_MAX: Final = 32
LOOK_STEP_MIN: Final = 0.01  # of the expected units, between two planned looks
SEGMENTS_MAX: Final = 20  # of one attribute
POLICY_SEGMENTS_MAX: Final = 200  # of all attributes of a policy together
COVARIATES_MAX: Final = 4
CONDITIONS_MAX: Final = 32
CONDITION_VALUES_MAX: Final = 1_000
REWARD_VALUE_MAX: Final = 1e9
FIELD_ERRORS_MAX: Final = 20
LAYER_RANGE_MIN: Final = 0.0001  # of a layer that an experiment holds
HORIZON_S_MAX: Final = 90 * 86_400
EXPERIMENTS_MAX: Final = 20_000
FEATURE_LOCATION_MAX: Final = 1e12  # in size
FEATURE_SCALE_MIN: Final = 1e-12
FEATURE_SCALE_MAX: Final = 1e12
FORGETTING_BUCKET_S_MIN: Final = 60
FORGETTING_BUCKETS: Final = 8  # in a half-life or window that is long enough
FORGETTING_HALF_LIVES: Final = 20  # a reward so old counts a millionth
FORGETTING_BUCKETS_KEPT: Final = 2 * FORGETTING_BUCKETS * FORGETTING_HALF_LIVES  # twice what any policy reads
FORGETTING_S_MAX: Final = 3_650 * 86_400
POSTERIOR_BYTES_MAX: Final = 1_048_576  # of 50 variants and 65 columns: 884,000

# Requests
BODY_BYTES_MAX: Final = 1_048_576
FEEDBACK_BODY_BYTES_MAX: Final = 4_194_304
FEEDBACK_BATCH_MAX: Final = 10_000
ASSIGN_EXPERIMENTS_MAX: Final = 100
CONTEXT_ENTRIES_MAX: Final = 64
CONTEXT_BYTES_MAX: Final = 8_192
QUERY_BYTES_MAX: Final = 16_384
JSON_DEPTH_MAX: Final = 64
PAGE_SIZE_MAX: Final = 500
PAGE_SIZE: Final = 100

# Hot path
EXPOSURES_PENDING_MAX: Final = 10_000
EXPOSURES_FLUSH_MAX: Final = 2_000
EXPOSURE_DEADLINE_S: Final = 1.0  # after which the answer goes out unrecorded
FEEDBACK_DEADLINE_S: Final = 5.0
FEEDBACK_FLUSHES_MAX: Final = 8

# Feedback
SIGNAL_VALUE_MAX: Final = 1e9  # in size, of a value in a sum or outside the catalogue
CLOCK_SKEW_S_MAX: Final = 86_400  # how far ahead of ours a caller's clock may be
FEEDBACK_ENTRY_EVENTS_MAX: Final = 1_000  # in one stream entry
FEEDBACK_ORDER_US_MAX: Final = 1_000_000  # that times of a burst run ahead of the clock, to be distinct
FEEDBACK_PENDING_MAX: Final = 100_000  # events that wait for their acknowledgement

ASSIGNMENT_ID_AHEAD_S_MAX: Final = 86_400  # of our clock: ids are signed, so a clock was wrong, not a caller

# Assignment ids are accepted this long after the horizon of their experiment has passed.
ASSIGNMENT_ID_GRACE_S: Final = 30 * 86_400
FEEDBACK_AGE_S_MAX: Final = HORIZON_S_MAX + ASSIGNMENT_ID_GRACE_S

# Ledger
LEDGER_BATCH_EVENTS_MAX: Final = 10_000
LEDGER_BATCH_WAIT_MS: Final = 200
LEDGER_READ_ENTRIES_MAX: Final = 64
LEDGER_IDLE_MS: Final = 1_000  # then the watermark of an idle shard moves on
LEDGER_SILENT_S: Final = 10.0  # of a Valkey that does not even say that nothing came
LEDGER_ENTRY_RETRIES_MAX: Final = 3
LEDGER_ENTRY_EVENTS_MAX: Final = 1_000_000  # that an entry may claim to have: ten times what servers put in
DEAD_LETTER_EVENTS_NAMED_MAX: Final = 20
LEDGER_DEADLOCKS_MAX: Final = 5
DEAD_LETTER_ERROR_LENGTH_MAX: Final = 2_000
LEASE_S: Final = 10.0
UNIT_ASSIGNMENTS_MAX: Final = 1_000  # of one epoch that are measured: a unit is read whole when it is touched
SWEEP_ASSIGNMENTS_MAX: Final = 10_000
SWEEP_INTERVAL_S: Final = 0.5
SERIES_MINUTES_S: Final = 2 * 86_400  # how long series are kept by the minute,
SERIES_HOURS_S: Final = 35 * 86_400  # and how long by the hour: a row a day is left of what is older
SERIES_THIN_ROWS_MAX: Final = 10_000
SERIES_STEPS: Final = 168
SERIES_STEPS_MAX: Final = 1_500  # in one answer
FORGOTTEN_INTERVAL_S: Final = 60.0
FORGOTTEN_EPOCHS_MAX: Final = 1_000
FORGOTTEN_ROWS_MAX: Final = 10_000

# Access
API_KEYS_MAX: Final = 1_000
API_KEY_NAME_LENGTH_MAX: Final = 128
SEEN_HEADERS_MAX: Final = 4_096
ACCESS_PROPAGATION_MS: Final = 10_000  # after which every server has loaded a new signing key

# Planning and evaluation: computations that a request waits for
COMPUTATIONS_MAX: Final = 1  # at a time in one process: they take turns with answers
COMPUTATION_SWITCH_S: Final = 0.0005  # how long one keeps the interpreter while an answer waits
SIMULATION_COMPUTING_S: Final = 3.0  # of one core, for a request that does not say how many runs it wants
SIMULATION_COMPUTING_S_MAX: Final = 15.0
SIMULATION_COMMAND_S: Final = 10.0  # the same, for `wald simulate`
SIMULATION_COMMAND_S_MAX: Final = 600.0
SIMULATION_REQUESTS_MAX: Final = 20_000_000
SIMULATION_BATCH_MAX: Final = 200_000
SIMULATION_DAYS_MAX: Final = 3_660
SIMULATION_CHANGES_MAX: Final = 100
SIMULATION_POLICIES_MAX: Final = 20
SIMULATION_RUNS_MAX: Final = 10_000
EVALUATION_ROWS_MAX: Final = 200_000  # of a longer log a random sample of units is read
EVALUATION_PAGE_ROWS: Final = 2_000
AA_UNITS_MIN: Final = 200
AA_UNITS_MAX: Final = 20_000  # of a control with more a random part is read
AA_REPLAYS: Final = 100  # in one answer
AA_REPLAYS_MAX: Final = 10_000
AA_COMPARISONS_MAX: Final = 5_000  # in one answer: replays times looks times metrics

# Publication
REALLOCATION_INTERVAL_S: Final = 0.25
REALLOCATION_POLL_S: Final = 0.25  # how often it is looked for what another process made due
REALLOCATION_BATCH_MAX: Final = 200  # about a second of work, after which new commits get their turn
PUBLICATION_CHECK_S: Final = 1.0  # how soon a Valkey that lost everything is noticed
HISTORY_POINTS: Final = 200
HISTORY_DENSE_S: Final = 3_600  # older allocations are thinned to one a minute
HISTORY_THIN_INTERVAL_S: Final = 60.0
HISTORY_THIN_ROWS_MAX: Final = 10_000
SNAPSHOT_POLL_S: Final = 1.0
SNAPSHOT_LOAD_MAX: Final = 500  # experiments in one command
SNAPSHOT_PREPARE_MAX: Final = 100  # experiments between two looks at requests
SNAPSHOT_REFRESH_S: Final = 10.0
REFRESH_SPACING_S: Final = 0.05
REFRESH_WAIT_S: Final = 0.5

# Freezes and the history of readouts
FREEZES_SHOWN: Final = 100
TOTALS_STALE_S: Final = 60.0  # totals that lack what is older decide nothing
READOUT_CHECK_S: Final = 2.0  # how often it is looked for experiments whose totals have changed
READOUT_INTERVAL_S: Final = 10.0  # between two readouts of one experiment
READOUT_BATCH_MAX: Final = 50  # between two looks
READOUT_DENSE_S: Final = 3_600  # older readouts are thinned to one in five minutes,
READOUT_MEDIUM_S: Final = 86_400  # and those older than this to one an hour
READOUT_THIN_INTERVAL_S: Final = 60.0
READOUT_THIN_ROWS_MAX: Final = 10_000
EXPORT_PAGE_ROWS: Final = 5_000

# Webhooks
WEBHOOK_ENDPOINTS_MAX: Final = 100
WEBHOOK_URL_LENGTH_MAX: Final = 2_048
WEBHOOK_EVENTS_MAX: Final = 64  # filters of one endpoint
WEBHOOK_SECRET_LENGTH_MAX: Final = 512  # of one that a receiver gave
WEBHOOK_KEY_LENGTH_MAX: Final = 512
WEBHOOK_BODY_BYTES_MAX: Final = 20_000  # receivers may refuse more (Standard Webhooks)
WEBHOOK_ANSWER_BYTES_MAX: Final = 65_536
WEBHOOK_ERROR_LENGTH_MAX: Final = 500
WEBHOOK_TIMEOUT_S: Final = 15.0  # of one attempt, from the name's resolution to the answer
WEBHOOK_LEASE_S: Final = 60.0  # then a delivery whose worker died is sent again
WEBHOOK_JITTER: Final = 0.2
WEBHOOK_RETRY_AFTER_S_MAX: Final = 3_600.0
WEBHOOK_SENDING_MAX: Final = 64  # at once, by one worker
WEBHOOK_ENDPOINT_SENDING_MAX: Final = 4  # at once, so that a slow receiver does not stand before the others
WEBHOOK_POLL_S: Final = 0.2
WEBHOOK_FINISH_S: Final = 8.0  # of what is on its way when the worker ends; less than SHUTDOWN_GRACE_S
WEBHOOK_ATTEMPTS_KEPT: Final = 50  # of one delivery
WEBHOOK_SECRET_OVERLAP_S: Final = 86_400  # how long the secret before a rotation signs as well
WEBHOOK_HISTORY_S: Final = 30 * 86_400  # messages older than that go, with their deliveries
WEBHOOK_THIN_INTERVAL_S: Final = 60.0
WEBHOOK_THIN_ROWS_MAX: Final = 1_000

# Rollouts
ROLLOUT_ID_MAX: Final = 2**31 - 1  # PostgreSQL's integer
ROLLOUT_STAGES_MAX: Final = 20
ROLLOUT_STAGE_S_MAX: Final = 90 * 86_400.0
ROLLOUT_GUARDRAILS_MAX: Final = 16
ROLLOUT_WINDOWS_MAX: Final = 21
ROLLOUT_EPOCHS_MAX: Final = 16  # of one rollout that evidence may start at; of more, the newest and the first
ROLLOUT_NOTICE_READINGS_MAX: Final = 12  # so that a notice fits into a webhook
KILL_RECORD_S: Final = 2.0  # that a kill waits for PostgreSQL
KILL_RECORD_INTERVAL_S: Final = 1.0  # between two looks for kills that are not recorded
ROLLOUT_NOTE_S: Final = 5.0  # between two notes of what a rollout that holds has read
ROLLOUT_LOOK_S: Final = 1.0  # between two looks, unless the ledger commits
ROLLOUT_EXAMPLES_MAX: Final = 10  # assignments that a receipt names
ROLLOUT_EXAMPLES_UNITS_MAX: Final = 100_000  # among which they are looked for

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

STREAM_QUIET_S: Final = 10.0

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
