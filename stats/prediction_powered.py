"""Prediction-powered inference from judge scores on many responses and human labels on few.

The mean of the human labels is what is wanted. The judge's mean is precise and perhaps wrong. How
wrong is estimated where both exist, and subtracted. A useless judge costs nothing, because its
weight is estimated too.

Each response may be judged and labelled with its own known probabilities (harder ones more often):
it then stands for the inverse of that probability. Six sums per unit suffice, so totals merge, and
a billion judgements cost no more than one.

With weighted means over the judged, the labelled, and those that are both, the estimate is

    mean(label) + trust * (mean(score of the judged) - mean(score of the judged and labelled)).

The second term has mean 0 whatever the judge does, and however judging fails: both of its means are
about the responses that the judge can score. So a bad judge, or one that fails on long texts, makes
the estimate less precise but never biased.

`PredictionPoweredMean.mean` holds at one planned look, `quality_sequence` at every look.

Not covered: labels missing for other reasons than the draw with the known probability; a judge
that was tuned on these labels; units that influence one another.
"""

import math
from typing import Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.interval import Interval
from stats.sequences import around, effective_units, radius
from stats.totals import FloatArray, JointTotals

DIMENSION: Final = 6
LABELS_MIN: Final = 3
"""Equally weighted labels below which there is no estimate."""
SEQUENCE_LABELS_MIN: Final = 10
"""Equally weighted labels below which there is no interval that is valid at every look."""
LABELS_EXPECTED: Final = 200
"""Labels per variant at which a sequence is tightest by default."""

# Labels at the far end of the range that are assumed beside the observed ones.
_UNSEEN_LABELS: Final = 2.0
_ROUNDING: Final = 1e-13


class JudgedTotals(msgspec.Struct, frozen=True):
    """Totals over units of one variant, whose responses a judge scored and people labelled.

    `moments` are of (a, a f, b, b y, c, c f) per unit, each summed over the unit's responses, with
    judge score f and human label y. The weights are a = 1 / P(judged) if judged, b = 1 /
    P(labelled) if labelled, c = a b, and 0 otherwise. A unit's responses must be in one total.
    `n_judged` and `n_labelled` count responses.

    Raises InvalidInput unless there are 6 values and no count is negative.
    """

    moments: JointTotals
    n_labelled: int
    n_judged: int

    def __post_init__(self) -> None:
        if self.moments.dimension != DIMENSION:
            raise InvalidInput(f"needs {DIMENSION} values per unit, got {self.moments.dimension}")
        checks.not_negative(self.n_labelled, "n_labelled")
        checks.not_negative(self.n_judged, "n_judged")

    @classmethod
    def none(cls) -> "JudgedTotals":
        """Return the totals of no units."""
        return cls(JointTotals.none(DIMENSION), 0, 0)

    @classmethod
    def from_observations(
        cls,
        judge: FloatArray,
        human: FloatArray,
        inclusion: FloatArray,
        *,
        judging: FloatArray | None = None,
        units: NDArray[np.int64] | None = None,
    ) -> "JudgedTotals":
        """Sum arrays of shape (n,), one entry per response.

        `judge` and `human` are NaN where there is no score or label. `inclusion` is the probability
        of being labelled and `judging` that of being judged, both in (0, 1]. Without `judging` it
        is 1; without `units` each response is a unit of its own.

        Raises InvalidInput if a probability is not in (0, 1], a value is infinite, or shapes
        differ.
        """
        judging = np.ones(len(judge)) if judging is None else judging
        shapes = {array.shape for array in (judge, human, inclusion, judging)}
        if units is not None:
            shapes.add(units.shape)
        if len(shapes) != 1:
            raise InvalidInput(f"shapes differ: {', '.join(map(str, sorted(shapes)))}")
        for probability in (inclusion, judging):
            if not ((probability > 0) & (probability <= 1)).all():
                raise InvalidInput("inclusion probabilities must be in (0, 1]")
        judged, labelled = ~np.isnan(judge), ~np.isnan(human)
        a, b = judged / judging, labelled / inclusion
        score, label = np.where(judged, judge, 0.0), np.where(labelled, human, 0.0)
        # One row per response, shape (n, 6); then one per unit.
        rows = np.stack((a, a * score, b, b * label, a * b, a * b * score), axis=1)
        if units is not None and len(units):
            _, codes = np.unique(units, return_inverse=True)
            sums = np.zeros((int(codes.max()) + 1, DIMENSION))
            np.add.at(sums, codes, rows)
            rows = sums
        return cls(JointTotals.from_observations(rows), int(labelled.sum()), int(judged.sum()))

    def __add__(self, other: Self) -> "JudgedTotals":
        return JudgedTotals(
            self.moments + other.moments, self.n_labelled + other.n_labelled, self.n_judged + other.n_judged
        )

    @property
    def judge_mean(self) -> float | None:
        """The judge's weighted mean score, taken at face value; None if it scored nothing."""
        mean = self.moments.mean
        return mean[1] / mean[0] if mean[0] > 0 else None

    @property
    def effective_labels(self) -> float:
        """Number of units with equally weighted labels that would be as informative (Kish)."""
        return self._effective(2)

    @property
    def effective_pairs(self) -> float:
        """Number of units with equally weighted pairs of score and label (Kish)."""
        return self._effective(4)

    def _effective(self, position: int) -> float:
        weight = self.moments.value(position)
        squares = weight.m2 + weight.n * weight.mean**2
        return (weight.n * weight.mean) ** 2 / squares if squares else 0.0


class PredictionPoweredMean(msgspec.Struct, frozen=True):
    """The mean human label with the judge's help, beside the one from the labels alone.

    `trust` is lambda: 0 ignores the judge, 1 takes its scores for labels that are right up to a
    shift. `judge_mean` is the judge's mean at face value, None without scores. `effective_labels`
    counts units with equally weighted labels.
    """

    mean: Estimate
    labels_alone: Estimate
    trust: float
    judge_mean: float | None
    effective_labels: float

    @property
    def label_gain(self) -> float:
        """Factor by which the labels alone would need more labels for the same precision."""
        return self.labels_alone.variance / self.mean.variance

    @property
    def removed_bias(self) -> float | None:
        """Judge's mean minus the estimate; None without scores."""
        return None if self.judge_mean is None else self.judge_mean - self.mean.value


class LinearForms(msgspec.Struct, frozen=True):
    """Means of one total, and how they react to a unit (delta method).

    The estimate is `label_mean` plus trust times `gap`. `plain` are the weights of the six values
    in the error of the first, `shift` those in the error of the second. `shift` is all zeros if the
    judge adds nothing.
    """

    label_mean: float
    gap: float
    plain: tuple[float, ...]
    shift: tuple[float, ...]

    @classmethod
    def of(cls, total: JudgedTotals) -> "LinearForms":
        """Raises InsufficientData if the labels do not suffice or are all equal."""
        if not total.n_labelled:
            raise InsufficientData(
                f"needs at least {LABELS_MIN} labels, has 0: no response has a human label"
            )
        checks.n_at_least(total.n_labelled, LABELS_MIN, "labels")
        effective = total.effective_labels
        if effective < LABELS_MIN - 1e-9:
            raise InsufficientData(
                f"needs labels of at least {LABELS_MIN} units; its {total.n_labelled} labels weigh "
                f"like those of {effective:.2g}, because they share units or some inclusion "
                "probabilities are very small"
            )
        a, judged_sum, b, label_sum, c, both_sum = total.moments.mean
        label_mean = label_sum / b
        plain = (0.0, 0.0, -label_mean / b, 1 / b, 0.0, 0.0)
        if _is_rounding(total.moments, plain):
            raise InsufficientData(
                f"all {total.n_labelled} labels are {label_mean:g}: without spread "
                "nothing says how sure they make us"
            )
        if a <= 0 or c <= 0 or total.effective_pairs < LABELS_MIN - 1e-9:
            return cls(label_mean, 0.0, plain, (0.0,) * DIMENSION)
        judge_mean, both_mean = judged_sum / a, both_sum / c
        shift = (-judge_mean / a, 1 / a, 0.0, 0.0, both_mean / c, -1 / c)
        constant = any(
            _is_rounding(total.moments, form) for form in (shift, (0.0, 0.0, 0.0, 0.0, *shift[4:]))
        )
        return cls(label_mean, judge_mean - both_mean, plain, (0.0,) * DIMENSION if constant else shift)

    def trust(self, total: JudgedTotals) -> float:
        """Return the trust of least variance, at least 0."""
        shift, covariance = np.array(self.shift), total.moments.covariance
        spread = float(shift @ covariance @ shift)
        if spread <= 0:
            return 0.0
        return max(-float(np.array(self.plain) @ covariance @ shift) / spread, 0.0)

    def combined(self, trust: float) -> list[float]:
        """Return the weights of the six values in the error of the estimate."""
        return [plain + trust * shift for plain, shift in zip(self.plain, self.shift, strict=True)]


def prediction_powered_mean(total: JudgedTotals, *, trust: float | None = None) -> PredictionPoweredMean:
    """Return the mean human label over all responses, with the judge's help.

    With `trust=None` it is the one of least variance, estimated, and at least 0: a judge that is
    useless, or disagrees with people systematically, is ignored. With constant probabilities this
    is PPI++ with the labelled responses counted among those that the judge scored; its lambda is
    trust times the share of scored responses without a label. Weighted means are Hajek's (divided
    by the sum of weights), so only differences between responses add variance. The variance is that
    of the estimator's linear form, summed over the responses of a unit, times m / (m - 1), or m /
    (m - 2) where trust was estimated, for m effective labels, with Student's t. Without scores, or
    with a constant judge, it is the estimate from the labels alone.

    Worked by hand: four responses have judge scores 1, 0, 1, 0 and P(labelled) = 1/2; two with
    scores 1, 0 have labels 1, 0. The residuals at trust 1 are 0, 0, so the mean is that of the
    scores, 1/2.

    Raises InsufficientData with fewer than 3 labels (or labels that weigh like fewer), or if all
    labels are equal.

    Source: Angelopoulos, Duchi & Zrnic (2023), PPI++, arXiv 2311.01453, section 6; Zrnic & Candes
    (2024), Active statistical inference, ICML, for weights; Kish (1965) for effective labels. We
    depart from PPI++ by Hajek's form, clusters, Student's t and the lower limit of trust.
    """
    forms = LinearForms.of(total)
    if trust is not None:
        checks.finite(trust, "trust")
    chosen = forms.trust(total) if trust is None else trust
    fitted = 1 if trust is None and chosen else 0
    pairs = min(total.effective_labels, total.effective_pairs) if chosen else total.effective_labels
    return PredictionPoweredMean(
        mean=_estimate(total, forms.label_mean + chosen * forms.gap, forms.combined(chosen), pairs, fitted),
        labels_alone=_estimate(total, forms.label_mean, list(forms.plain), total.effective_labels, 0),
        trust=chosen,
        judge_mean=total.judge_mean,
        effective_labels=total.effective_labels,
    )


def quality_sequence(
    quality: PredictionPoweredMean,
    *,
    alpha: float,
    tuned_to: float = LABELS_EXPECTED,
    label_range: float = 1.0,
) -> Interval:
    """Return an asymptotic confidence sequence for the mean human label, valid at every look.

    It is tightest at `tuned_to` labels; choose them before the start. Labels span `label_range`.
    Time is the number of labels that would be as precise on their own: in this time the estimate is
    a Brownian motion, whether labels or judgements arrive. Few labels that do not contain a rare
    low value yet claim to know their mean too well. So the variance is raised by that of two more
    labels at the far end of the range, 2 (label_range / labels)^2.

    Worked by hand: 100 labels with error variance 0.0023, label_range 1: the variance is 0.0025.

    Raises InsufficientData below SEQUENCE_LABELS_MIN effective labels.

    Source: Waudby-Smith et al. (2024), Annals of Statistics 52(6), Theorem 2.2, in information
    time. The burn-in and the raised variance are ours, chosen by simulation
    (`benchmarks/calibrate_quality.py`).
    """
    variance = _raised(quality, label_range)
    distance = radius(variance, _time(quality), alpha=alpha, tuned_to=tuned_to)
    return around(quality.mean.value, float(distance), "two-sided")


def quality_difference_sequence(
    treatment: PredictionPoweredMean,
    control: PredictionPoweredMean,
    *,
    alpha: float,
    tuned_to: float = LABELS_EXPECTED,
    label_range: float = 1.0,
) -> Interval:
    """Return an asymptotic confidence sequence for the difference treatment - control.

    It is tightest at `tuned_to` labels per variant; see `quality_sequence`. If a unit has responses
    of both variants, these are usually alike, and the interval is then wider than it needs to be.

    Raises InsufficientData below SEQUENCE_LABELS_MIN effective labels in a variant.
    """
    time = effective_units(_time(control), _time(treatment))
    variance = _raised(treatment, label_range) + _raised(control, label_range)
    distance = radius(variance, time, alpha=alpha, tuned_to=tuned_to / 2)
    return around(treatment.mean.value - control.mean.value, float(distance), "two-sided")


def _time(quality: PredictionPoweredMean) -> float:
    return quality.effective_labels * quality.label_gain


def _raised(quality: PredictionPoweredMean, label_range: float) -> float:
    checks.positive(label_range, "label_range")
    labels = quality.effective_labels
    if labels < SEQUENCE_LABELS_MIN - 1e-9:
        raise InsufficientData(
            f"needs at least {SEQUENCE_LABELS_MIN} equally weighted labels before the interval "
            f"is valid at every look, has {labels:.3g}"
        )
    return quality_variance(quality.mean.variance, labels, label_range=label_range)


def quality_variance(variance: float, labels: float, *, label_range: float) -> float:
    """Raise an error variance by that of two labels more, at the far end of the range.

    Worked by hand: 0.0023 of 100 labels with range 1 becomes 0.0025.
    """
    return variance + _UNSEEN_LABELS * (label_range / labels) ** 2


def _is_rounding(moments: JointTotals, form: tuple[float, ...]) -> bool:
    """Return whether a form varies by no more than rounding leaves."""
    size = sum(
        weight**2 * (moments.value(position).m2 + moments.n * moments.mean[position] ** 2)
        for position, weight in enumerate(form)
    )
    return moments.combine(form).m2 <= _ROUNDING * size


def _estimate(total: JudgedTotals, value: float, form: list[float], labels: float, fitted: int) -> Estimate:
    freedom = labels - 1 - fitted
    variance = total.moments.combine(form).m2 / total.moments.n**2
    if not math.isfinite(value):
        raise InsufficientData("the weights are too unequal for an estimate")
    return Estimate.of_independent(value, [(variance * labels / freedom, freedom)])
