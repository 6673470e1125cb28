"""Pure statistical inference on mergeable totals.

This package exports every method that a program may call.

Choose a sequential method by how you look at the data:

| what you ask | use |
|---|---|
| look all the time, no planned end: a mean, a difference, a relative difference | `sequences` |
| the same for rewards within [0, 1] or proportions, exactly, also under a bandit | `bounded` |
| the same with a known variance, as a p-value | `MixtureSprt` with `AlwaysValid` |
| the same with normal errors and few units, also in a regression, exactly | `TMixture` |
| look all the time up to a known horizon | `Yeast` |
| a few planned looks and a known maximum: the most power | `GroupSequentialPlan` |
| two named hypotheses, as few observations as possible | `BernoulliSprt`, `NormalSprt`, `TwoArmSprt` |
| whether a small arm (a canary) is worse than a large one, or not by a margin | `OneSided` |
| rare events in two arms, any and moving traffic shares | `ratio_evalue`, `ratio_sequence` |
| a difference under a policy that reacts to outcomes, at every look, under any drift | `concurrent` |
| the mean of one arm from such data | `adaptive` |
| the mean human label, from judges on many and people on few | `prediction_powered_mean` |
| whether a judge agrees with people, and still does | `calibrate`, `agreement_drift` |
| whether assignments follow their logged probabilities | `srm` |

"SpeedSeq" is a name in descriptions of fast sequential testing; no published test has it. Use
`Yeast` for the fastest decision before a known horizon, `MixtureSprt` without a horizon,
`GroupSequentialPlan` for planned looks.
"""

from stats.aa import MeasuredRate, NoiseFloor, noise_floor
from stats.adaptive import (
    AdaptiveEstimate,
    ArmPeriod,
    adaptive_difference,
    adaptive_mean,
    importance_sequence,
)
from stats.agreement import (
    LimitingAgreement,
    cohen_kappa,
    fleiss_kappa,
    gwet_ac1,
    krippendorff_alpha,
)
from stats.balance import balance_evalue
from stats.bounded import BernsteinSums, bounded_sequence
from stats.calibration import AgreementTotals, Calibration, Recall, calibrate, held_out
from stats.concurrent import (
    ConcurrentArms,
    comparable,
    contrast,
    drawn_alike,
    event_sequence,
    few_events,
    linearised,
    one_look,
    strata_of_ages,
    strata_of_shares,
)
from stats.drift import Drift, agreement_drift
from stats.eprocess import AlwaysValid, EValue
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Alternative, Estimate, HypothesisTest
from stats.group_sequential import (
    GroupSequentialPlan,
    HwangShihDeCani,
    Paths,
    PowerFamily,
    Spending,
    spending_of,
)
from stats.heterogeneity import PartialPooling, interaction_test, partial_pooling
from stats.interval import Interval, beta_interval
from stats.label_planning import LabelOption, LabelPlan, plan_labels
from stats.length_bias import length_bias, length_totals
from stats.means import mean, mean_difference
from stats.mixture import MixtureSprt
from stats.multiplicity import Correction, Role, family_level
from stats.one_sided import OneSided
from stats.paired import (
    PairedComparison,
    PairedResult,
    PairedTotals,
    both_orders,
    paired_comparison,
    paired_result,
    position_bias,
)
from stats.planning import (
    Feasible,
    MeanOutcome,
    Plan,
    ProportionOutcome,
    RatioOutcome,
    Sample,
    TrafficTooLow,
    duration,
    minimum_detectable_effect,
    power,
    sample_size,
)
from stats.prediction_powered import (
    JudgedTotals,
    PredictionPoweredMean,
    prediction_powered_mean,
    quality_difference_sequence,
    quality_sequence,
)
from stats.proportions import exact_interval, score_interval, score_test
from stats.quantiles import (
    QuantileSketch,
    quantile,
    quantile_bound,
    quantile_difference_interval,
    quantile_difference_sequence,
    quantile_interval,
    quantile_sequence,
)
from stats.ratios import ratio_parts, with_covariates
from stats.relative import fieller_interval, risk_ratio_interval
from stats.seasonality import SeasonalBaseline, fit_baseline
from stats.sequences import (
    Contrast,
    difference_sequence,
    mean_sequence,
    normal_sequence,
    relative_difference_sequence,
    units_to_tell,
)
from stats.sequential_counts import (
    EventCounts,
    difference_at,
    likeliest_ratio,
    rare,
    ratio_evalue,
    ratio_sequence,
)
from stats.sprt import BernoulliSprt, NormalSprt, OperatingCharacteristic, TwoArmSprt, WaldLimits
from stats.srm import (
    ArmCounts,
    ChiSquare,
    absence_p_values,
    chi_square,
    deviations,
    evalue,
    zero_weight_leaks,
)
from stats.stratification import StratifiedDifference, Stratum, pooled, stratified_difference
from stats.t_mixture import TMixture
from stats.totals import JointTotals, MeanTotals, ProportionTotals, RewardTotals
from stats.variance_reduction import AdjustedDifference, CovariateAdjustment, regression_adjustment
from stats.yeast import Yeast

__all__ = [  # noqa: RUF022  (by purpose)
    # Totals that methods read, and what they refuse.
    "InsufficientData",
    "InvalidInput",
    "JointTotals",
    "MeanTotals",
    "ProportionTotals",
    "QuantileSketch",
    "RewardTotals",
    # What methods return.
    "Alternative",
    "EValue",
    "Estimate",
    "HypothesisTest",
    "Interval",
    "beta_interval",
    # One planned look: means, proportions, ratios, relative differences and quantiles.
    "exact_interval",
    "fieller_interval",
    "mean",
    "mean_difference",
    "quantile",
    "quantile_difference_interval",
    "quantile_interval",
    "ratio_parts",
    "risk_ratio_interval",
    "score_interval",
    "score_test",
    # Every look: means, bounded values, rare events and quantiles.
    "AlwaysValid",
    "BernsteinSums",
    "Contrast",
    "EventCounts",
    "MixtureSprt",
    "TMixture",
    "OneSided",
    "bounded_sequence",
    "difference_at",
    "difference_sequence",
    "likeliest_ratio",
    "mean_sequence",
    "normal_sequence",
    "quantile_bound",
    "quantile_difference_sequence",
    "quantile_sequence",
    "rare",
    "ratio_evalue",
    "ratio_sequence",
    "relative_difference_sequence",
    "units_to_tell",
    # Planned looks, known horizons and named hypotheses.
    "BernoulliSprt",
    "GroupSequentialPlan",
    "HwangShihDeCani",
    "NormalSprt",
    "OperatingCharacteristic",
    "Paths",
    "PowerFamily",
    "Spending",
    "spending_of",
    "TwoArmSprt",
    "WaldLimits",
    "Yeast",
    # Data that a bandit allocated.
    "AdaptiveEstimate",
    "ArmPeriod",
    "ConcurrentArms",
    "adaptive_difference",
    "adaptive_mean",
    "comparable",
    "contrast",
    "drawn_alike",
    "event_sequence",
    "few_events",
    "importance_sequence",
    "linearised",
    "one_look",
    "strata_of_ages",
    "strata_of_shares",
    # Covariates, strata, segments and many metrics.
    "AdjustedDifference",
    "Correction",
    "CovariateAdjustment",
    "PartialPooling",
    "Role",
    "StratifiedDifference",
    "Stratum",
    "family_level",
    "interaction_test",
    "partial_pooling",
    "pooled",
    "regression_adjustment",
    "stratified_difference",
    "with_covariates",
    # Before the start: sample size and duration.
    "Feasible",
    "MeanOutcome",
    "Plan",
    "ProportionOutcome",
    "RatioOutcome",
    "Sample",
    "TrafficTooLow",
    "duration",
    "minimum_detectable_effect",
    "power",
    "sample_size",
    # Whether the experiment itself is sound.
    "ArmCounts",
    "ChiSquare",
    "MeasuredRate",
    "NoiseFloor",
    "absence_p_values",
    "balance_evalue",
    "chi_square",
    "deviations",
    "evalue",
    "noise_floor",
    "zero_weight_leaks",
    # Judges and people.
    "AgreementTotals",
    "Calibration",
    "Drift",
    "JudgedTotals",
    "LabelOption",
    "LabelPlan",
    "LimitingAgreement",
    "PairedComparison",
    "PairedResult",
    "PairedTotals",
    "PredictionPoweredMean",
    "Recall",
    "agreement_drift",
    "both_orders",
    "calibrate",
    "cohen_kappa",
    "fleiss_kappa",
    "gwet_ac1",
    "held_out",
    "krippendorff_alpha",
    "length_bias",
    "length_totals",
    "paired_comparison",
    "paired_result",
    "plan_labels",
    "position_bias",
    "prediction_powered_mean",
    "quality_difference_sequence",
    "quality_sequence",
    # Series over time.
    "SeasonalBaseline",
    "fit_baseline",
]
