"""Bounds of reviews."""

from typing import Final

REVIEW_RATE: Final = 0.01  # share of responses in the probability sample, by default
RUBRIC_LENGTH_MAX: Final = 20_000
REVIEW_LABELS_MIN: Final = 2
REVIEW_LABELS_MAX: Final = 10  # each label is one digit, hence one key
REVIEW_WORD_LENGTH_MAX: Final = 64
REVIEWERS_MAX: Final = 25  # distinct reviewers of one item
REVIEW_SPARE_SKIPS: Final = 2  # more skips than wanted reviews plus this close an item
REVIEW_LEASE_S: Final = 900
REVIEW_LEASE_S_MIN: Final = 5
REVIEW_LEASE_S_MAX: Final = 86_400
REVIEW_COMMENT_LENGTH_MAX: Final = 4_096
REVIEW_SECONDS_MAX: Final = 86_400.0  # time that one answer may claim to have taken
REVIEW_CLAIM_TRIES_MAX: Final = 5
REVIEW_REVISIONS_MAX: Final = 100  # corrections of one answer

REVIEW_SAMPLE_S: Final = 1.0  # between two looks for new responses
REVIEW_SAMPLE_ROWS_MAX: Final = 500  # responses of one transaction
REVIEW_LEASE_LOOK_S: Final = 1.0  # between two looks at the leases
REVIEW_SIGNAL_S: Final = 1.0  # between two looks for reviews that are not signals yet
REVIEW_SIGNALS_MAX: Final = 500  # assignments of one round

REVIEW_EXPORT_ITEMS: Final = 500  # of one page of an export
REVIEW_AGREEMENT_ITEMS_MAX: Final = 5_000  # the newest items enter the coefficients
REVIEWERS_SHOWN_MAX: Final = 500
REVIEW_IMPORT_BYTES_MAX: Final = 4_194_304
REVIEW_IMPORT_ROWS_MAX: Final = 5_000  # labels of one request
REVIEW_IMPORT_BATCH: Final = 100  # labels of one transaction
REVIEW_IMPORT_ERRORS_MAX: Final = 1_000  # errors that one answer lists
REVIEW_PAIRS_MAX: Final = 45  # pairs of reviewers with a coefficient of their own
