"""Bounds of responses."""

from typing import Final

READ_RESPONSES_MAX: Final = 1_000  # in one read of the store
RESPONSES_BATCH_MAX: Final = 1_000  # in one request
RESPONSES_BODY_BYTES_MAX: Final = 8_388_608
RESPONSES_PENDING_BYTES_MAX: Final = 67_108_864  # that wait for their acknowledgement
RESPONSES_FLUSHES_MAX: Final = 4
RESPONSES_DEADLINE_S: Final = 10.0
RESPONSES_ENTRY_BYTES: Final = 524_288  # size at which a stream entry is full
RESPONSES_ENTRY_MAX: Final = 500  # in one stream entry

TEXT_BYTES_MAX: Final = 1_048_576  # of a prompt, and of a response
ERROR_BYTES_MAX: Final = 16_384
METADATA_BYTES_MAX: Final = 16_384  # as JSON
NAME_LENGTH_MAX: Final = 256  # of model, session_id and finish_reason
TOKENS_MAX: Final = 1_000_000_000
LATENCY_MS_MAX: Final = 1e9
COST_USD_MAX: Final = 1e6
PLACED_MAX: Final = 500  # responses by unit that one transaction gives their assignments
EXPIRY_DOUBT_S: Final = 3_600.0  # before a date that jumps ahead is believed
EXPIRY_INTERVAL_S: Final = 5.0
ADDRESS_DAYS: Final = 120  # for which a response_id is an address after its texts expired
DEAD_RESPONSES_DAYS: Final = 30  # for which a stream entry that cannot be read is kept
FORGOTTEN_MAX: Final = 10_000
