"""Bounds of the ledger."""

from typing import Final

from app.experiments.limits import FORGETTING_BUCKETS, FORGETTING_HALF_LIVES

FORGETTING_BUCKETS_KEPT: Final = 2 * FORGETTING_BUCKETS * FORGETTING_HALF_LIVES  # twice what any policy reads
LEDGER_BATCH_EVENTS_MAX: Final = 10_000
LEDGER_BATCH_WAIT_MS: Final = 200
LEDGER_READ_ENTRIES_MAX: Final = 64
LEDGER_IDLE_MS: Final = 1_000  # wait for an entry, then the watermark of an idle shard moves
LEDGER_SILENT_S: Final = 10.0  # without any answer from Valkey before the connection counts as lost
LEDGER_ENTRY_RETRIES_MAX: Final = 3
LEDGER_ENTRY_EVENTS_MAX: Final = 1_000_000  # claimed by one entry: ten times what servers write
DEAD_LETTER_EVENTS_NAMED_MAX: Final = 20
LEDGER_DEADLOCKS_MAX: Final = 5
DEAD_LETTER_ERROR_LENGTH_MAX: Final = 2_000
LEASE_S: Final = 10.0
DELAY_SIGNALS_MIN: Final = 100  # of one name in an experiment from which its delay is taken
DELAY_EXPERIMENTS_MAX: Final = 200  # the newest, in which signals are looked for
DELAY_ASSIGNMENTS_MAX: Final = 1_000  # whose signals are read for a delay
SIGNAL_NAMES_MAX: Final = 200  # of an experiment that have their own row; names that it reads always have one
UNIT_ASSIGNMENTS_MAX: Final = (
    1_000  # of one unit and epoch that are measured, since a touched unit is read whole
)
SWEEP_ASSIGNMENTS_MAX: Final = 10_000
BACKFILL_ASSIGNMENTS_MAX: Final = 5_000  # in one transaction
BACKFILLS_MAX: Final = 100  # that a worker looks at in one round
BACKFILL_INTERVAL_S: Final = 1.0  # between two looks for a backfill
BACKFILL_REST_S: Final = 0.5  # the longest pause between two transactions of a backfill
BACKFILL_ERROR_LENGTH_MAX: Final = 500
SWEEP_INTERVAL_S: Final = 0.5
SERIES_MINUTES_S: Final = 2 * 86_400  # age at which minutes of series become hours
SERIES_HOURS_S: Final = 35 * 86_400  # age at which hours of series become days
SERIES_THIN_ROWS_MAX: Final = 10_000
FORGOTTEN_INTERVAL_S: Final = 60.0
FORGOTTEN_EPOCHS_MAX: Final = 1_000
FORGOTTEN_ROWS_MAX: Final = 10_000
