"""Bounds of ledger."""

from typing import Final

from app.experiments.limits import FORGETTING_BUCKETS, FORGETTING_HALF_LIVES

FORGETTING_BUCKETS_KEPT: Final = 2 * FORGETTING_BUCKETS * FORGETTING_HALF_LIVES  # twice what any policy reads
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
SIGNAL_NAMES_MAX: Final = 200  # of an experiment that are counted by name; names that it reads always are
UNIT_ASSIGNMENTS_MAX: Final = 1_000  # of one epoch that are measured: a unit is read whole when it is touched
SWEEP_ASSIGNMENTS_MAX: Final = 10_000
SWEEP_INTERVAL_S: Final = 0.5
SERIES_MINUTES_S: Final = 2 * 86_400  # how long series are kept by the minute,
SERIES_HOURS_S: Final = 35 * 86_400  # and how long by the hour: a row a day is left of what is older
SERIES_THIN_ROWS_MAX: Final = 10_000
FORGOTTEN_INTERVAL_S: Final = 60.0
FORGOTTEN_EPOCHS_MAX: Final = 1_000
FORGOTTEN_ROWS_MAX: Final = 10_000
