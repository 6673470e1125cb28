"""Bounds of experiments."""

from typing import Final

SUGGESTION_LENGTH_MAX: Final = 64  # of a misspelled name; comparing longer ones takes too long

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
REWARD_WEIGHT_MAX: Final = 100.0  # 64 of them, in millionths, times 10**9 fit 64 bits
REWARD_WEIGHT_MIN: Final = 1e-6  # in size; weights are whole millionths
CALIBRATION_POINTS_MAX: Final = 32
SIGNALS_DECLARED_MAX: Final = 64
SIGNAL_TEXT_LENGTH_MAX: Final = 500
FIELD_ERRORS_MAX: Final = 20
LAYER_RANGE_MIN: Final = 0.0001  # of a layer that an experiment holds
EXPERIMENTS_MAX: Final = 20_000
KEYS_COMPARED_MAX: Final = 1_000  # the newest keys, among which a misspelled key is looked for
FEATURE_LOCATION_MAX: Final = 1e12  # in size
FEATURE_SCALE_MIN: Final = 1e-12
FEATURE_SCALE_MAX: Final = 1e12
FORGETTING_BUCKET_S_MIN: Final = 60
FORGETTING_BUCKETS: Final = 8  # in a half-life or window that is long enough
FORGETTING_HALF_LIVES: Final = 20  # a reward so old counts a millionth
FORGETTING_S_MAX: Final = 3_650 * 86_400

RETENTION_DAYS: Final = 30  # for which the texts of responses are kept
RETENTION_DAYS_MAX: Final = 400
