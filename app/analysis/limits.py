"""Bounds of analysis."""

from typing import Final

SERIES_STEPS: Final = 168
SERIES_STEPS_MAX: Final = 1_500  # in one answer

AA_UNITS_MIN: Final = 200
AA_UNITS_MAX: Final = 20_000  # of a control with more a random part is read
AA_REPLAYS: Final = 100  # in one answer
AA_REPLAYS_MAX: Final = 10_000
AA_COMPARISONS_MAX: Final = 5_000  # in one answer: replays times looks times metrics

AGGREGATED_UNITS_MAX: Final = 10**15  # of one variant; counts up to there are exact in binary64
AGGREGATED_VALUE_MAX: Final = 1e100  # in size, so that sums of squares are finite
AGGREGATED_ERRORS_MAX: Final = 20

TOTALS_STALE_S: Final = 60.0  # totals that lack what is older decide nothing
READOUT_CHECK_S: Final = 2.0  # how often it is looked for experiments whose totals have changed
READOUT_INTERVAL_S: Final = 10.0  # between two readouts of one experiment
READOUT_BATCH_MAX: Final = 50  # between two looks
READOUT_DENSE_S: Final = 3_600  # older readouts are thinned to one in five minutes,
READOUT_MEDIUM_S: Final = 86_400  # and those older than this to one an hour
READOUT_THIN_INTERVAL_S: Final = 60.0
READOUT_THIN_ROWS_MAX: Final = 10_000
COVERAGE_ROWS: Final = 20_000  # assignments in a sample of signals
CALIBRATION_ROWS: Final = 200_000  # if the caller names the label, because labels are rare

EXPORT_PAGE_ROWS: Final = 5_000
EXPORT_SAMPLE_ROWS: Final = 100_000  # in which the keys of contexts are looked for
EXPORT_CONTEXTS_MAX: Final = 200  # columns; other keys are in the column `context` alone
