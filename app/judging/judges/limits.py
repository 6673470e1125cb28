"""Bounds of the judges."""

from typing import Final

# Definitions
LABELS_MIN: Final = 2
LABELS_MAX: Final = 10
MEANING_LENGTH_MAX: Final = 500
RUBRIC_LENGTH_MAX: Final = 16_384
TEMPLATE_LENGTH_MAX: Final = 16_384
MODEL_LENGTH_MAX: Final = 200
URL_LENGTH_MAX: Final = 2_048
TEXT_LENGTH_MAX: Final = 1_000_000  # characters of a response; the rule `length` counts up to this
LANGUAGES_MAX: Final = 50
PRICE_USD_MAX: Final = 10_000.0  # per million tokens
TOKENS_MAX: Final = 100_000  # of one answer, with its reasoning

# Calls of a judge that asks an endpoint
TIMEOUT_S_MAX: Final = 600.0
ATTEMPTS_MAX: Final = 10
CONCURRENCY_MAX: Final = 512
JUDGED_LENGTH: Final = 48_000  # characters of prompt and response that a call may hold, by default
ANSWER_BYTES_MAX: Final = 262_144  # of one answer, after decompression
POOLS: Final = 16  # of connections of one worker, to all endpoints
POOL_CONNECTIONS: Final = 32
RETRY_FIRST_S: Final = 0.5
RETRY_S_MAX: Final = 20.0  # a longer `Retry-After` ends the attempts: the queue tries again later

# Measurements
REASONS_LENGTH_MAX: Final = 2_000
ERROR_LENGTH_MAX: Final = 300
TOKENS_REPORTED_MAX: Final = 10_000_000  # a greater number of tokens is not believed
MARK_BYTES: Final = 6  # of the random mark around judged texts, written as 12 hexadecimal digits

# Judges without an endpoint
BATCH_MAX: Final = 64  # responses that a thread scores in one go
RULE_LENGTH: Final = 20_000  # characters at the start of a response that the slower rules read
PLUGIN_THREADS: Final = 8
