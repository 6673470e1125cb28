"""Bounds of webhooks."""

from typing import Final

WEBHOOK_ENDPOINTS_MAX: Final = 100
WEBHOOK_URL_LENGTH_MAX: Final = 2_048
WEBHOOK_EVENTS_MAX: Final = 64  # filters of one endpoint
WEBHOOK_SECRET_LENGTH_MAX: Final = 512  # secret that a receiver issued
WEBHOOK_KEY_LENGTH_MAX: Final = 512
WEBHOOK_BODY_BYTES_MAX: Final = 20_000  # receivers may refuse more (Standard Webhooks)
WEBHOOK_ANSWER_BYTES_MAX: Final = 65_536
WEBHOOK_ERROR_LENGTH_MAX: Final = 500
WEBHOOK_TIMEOUT_S: Final = 15.0  # one attempt, from name resolution to the answer
WEBHOOK_LEASE_S: Final = 60.0  # then another worker repeats the delivery
WEBHOOK_SENDING_MAX: Final = 64  # at the same time, by one worker
WEBHOOK_ENDPOINT_SENDING_MAX: Final = 4  # so that a slow receiver does not delay others
WEBHOOK_POLL_S: Final = 0.2
WEBHOOK_FINISH_S: Final = 8.0  # when a worker ends; less than SHUTDOWN_GRACE_S
WEBHOOK_ATTEMPTS_KEPT: Final = 50  # per delivery
WEBHOOK_SECRET_OVERLAP_S: Final = 86_400  # an old secret still signs for this long
WEBHOOK_HISTORY_S: Final = 30 * 86_400  # older messages are deleted with their deliveries
WEBHOOK_THIN_INTERVAL_S: Final = 60.0
WEBHOOK_THIN_ROWS_MAX: Final = 1_000
