"""Bounds of judging."""

from typing import Final

# Definitions
JUDGES_MAX: Final = 200  # names
JUDGE_VERSIONS_MAX: Final = 200  # of one name
JUDGING_RULES_MAX: Final = 500  # of all experiments
EXPERIMENT_RULES_MAX: Final = 20
FILTER_VALUES_MAX: Final = 50
FILTER_TEXT_LENGTH_MAX: Final = 500
PRIORITY_MAX: Final = 9
DAY_USD_MAX: Final = 1e6
DAY_CALLS_MAX: Final = 10_000_000
UNPRICED_CALLS_MAX: Final = 1_000  # a day, where a price is unknown and no cap on calls is given
CHARACTERS_MAX: Final = 1_000_000
CREDENTIAL_LENGTH_MAX: Final = 128

# Sampling
JUDGING_RATE: Final = 0.1  # of what is not flagged, for judges that cost money
LONG_CHARACTERS: Final = 8_000  # a longer response is flagged
CONFIDENCE_MIN: Final = 0.5  # a response with less confidence is flagged
TOXICITY_MAX: Final = 0.5  # a response above it is flagged
WINDOW_S: Final = 60.0
WINDOW_S_MAX: Final = 3_600.0
RESERVOIR_MAX: Final = 1_000  # of one stratum and window
NEW_VARIANT_RESPONSES: Final = 200  # until then a variant is new
BOOST_MAX: Final = 5.0  # most by which a new or small variant is oversampled
REPEAT_RATE: Final = 0.02
PLANNED_RESPONSES_MAX: Final = 200  # of one transaction

# Budget
FREE_SHARE: Final = 0.5  # of a day's budget, before the rest is spread over the day
FLAGGED_FREE_SHARE: Final = 0.9  # the same for flagged responses
PACE_FLOOR_S: Final = 3_600.0  # shortest time over which the traffic of a day is measured
COST_PER_CALL_USD: Final = 0.01  # assumed for planning until a call was priced

# Jobs
JUDGING_BATCH_MAX: Final = 64  # responses of one batch of a judge without an endpoint
JUDGING_BATCHES_MAX: Final = 4  # of one worker at the same time
JUDGING_LEASE_S: Final = 30.0
JUDGING_WAIT_S: Final = 3 * 86_400  # then a judgement that was wanted is given up
JUDGING_SWEEP_ROWS_MAX: Final = 1_000
JUDGING_REASONS_KEPT: Final = 2_000  # characters of a judge's reasons

# Breaker
BREAKER_CALLS: Final = 20  # the last calls that count
BREAKER_FAILURES: Final = 5
BREAKER_SHARE: Final = 0.5  # of these calls, from which on it opens
BREAKER_FIRST_S: Final = 10.0
BREAKER_S_MAX: Final = 600.0

# Signals of promoted judges
JUDGE_SIGNALS_MAX: Final = 1_000  # in one stream entry

# Trust
HISTORY_MAX: Final = 100  # transitions shown
PLANNING_PAUSE_S: Final = 0.5
JUDGING_JOBS_MAX: Final = 128  # of one worker at the same time
JUDGING_POLL_S: Final = 0.5
JUDGING_RENEW_S: Final = 8.0
JUDGING_FINISH_S: Final = 6.0  # when a worker ends; less than SHUTDOWN_GRACE_S
JUDGING_SWEEP_S: Final = 60.0
OPEN_JUDGES_MAX: Final = 100  # judges that one worker holds open
JUDGE_SIGNALS_PAUSE_S: Final = 1.0
TRUST_PAUSE_S: Final = 10.0
DIFF_PAIRS_MAX: Final = 100_000
