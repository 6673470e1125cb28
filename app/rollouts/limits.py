"""The bounds of rollouts that no other room shares."""

from typing import Final

ROLLOUTS_SHOWN_MAX: Final = 10
"""Rollouts in the status and on the page of an experiment: the newest, whether they have ended or not."""

ROLLOUT_ID_MAX: Final = 2**31 - 1  # PostgreSQL's integer
ROLLOUT_STAGES_MAX: Final = 20
ROLLOUT_STAGE_S_MAX: Final = 90 * 86_400.0
ROLLOUT_GUARDRAILS_MAX: Final = 16
ROLLOUT_WINDOWS_MAX: Final = 21
ROLLOUT_EPOCHS_MAX: Final = 16  # of one rollout that evidence may start at; of more, the newest and the first
ROLLOUT_NOTICE_READINGS_MAX: Final = 12  # so that a notice fits into a webhook
ROLLOUT_NOTE_S: Final = 5.0  # between two notes of what a rollout that holds has read
ROLLOUT_LOOK_S: Final = 1.0  # between two looks, unless the ledger commits
ROLLOUT_EXAMPLES_MAX: Final = 10  # assignments that a receipt names
ROLLOUT_EXAMPLES_UNITS_MAX: Final = 100_000  # among which they are looked for
