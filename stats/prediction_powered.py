"""Prediction-powered inference from judge scores on every item and human labels on few.

The mean of the human labels is what is wanted. The judge's mean over all items is precise and
perhaps wrong; how wrong is estimated where both exist, and subtracted. A useless judge costs
nothing, because how far it is trusted is estimated too.

Each item may be chosen for labelling with its own known probability pi (harder ones more often): a
labelled item stands for 1 / pi items. Needed of every item are four numbers, so totals suffice and
merge.
"""

from typing import Self

import msgspec
import numpy as np

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Estimate
from stats.totals import FloatArray, JointTotals

DIMENSION = 4


class JudgedTotals(msgspec.Struct, frozen=True):
    """Totals over all judged items; `n_labelled` of them also have a human label.

    `moments` are of (f, w, w f, w y) per item: judge score f, human label y, and weight w = 1 / pi
    if labelled, else 0. Raises InvalidInput unless there are 4 values and 0 <= n_labelled <= n.
    """

    moments: JointTotals
    n_labelled: int

    def __post_init__(self) -> None:
        if self.moments.dimension != DIMENSION:
            raise InvalidInput(f"needs 4 values per item, got {self.moments.dimension}")
        if not 0 <= self.n_labelled <= self.moments.n:
            raise InvalidInput(f"n_labelled must be in [0, {self.moments.n}], got {self.n_labelled}")

    @classmethod
    def from_observations(cls, judge: FloatArray, human: FloatArray, inclusion: FloatArray) -> "JudgedTotals":
        """Sum arrays of shape (n,).

        `human` is NaN where there is no label. `inclusion` is pi in (0, 1].

        Raises InvalidInput if a pi is not in (0, 1] or shapes differ.
        """
        if not judge.shape == human.shape == inclusion.shape:
            raise InvalidInput(f"shapes differ: {judge.shape}, {human.shape}, {inclusion.shape}")
        if not ((inclusion > 0) & (inclusion <= 1)).all():
            raise InvalidInput("inclusion probabilities must be in (0, 1]")
        labelled = ~np.isnan(human)
        weight = labelled / inclusion
        rows = np.stack((judge, weight, weight * judge, weight * np.where(labelled, human, 0.0)), axis=1)
        return cls(JointTotals.from_observations(rows), int(labelled.sum()))

    def __add__(self, other: Self) -> "JudgedTotals":
        return JudgedTotals(self.moments + other.moments, self.n_labelled + other.n_labelled)


class PredictionPoweredMean(msgspec.Struct, frozen=True):
    """The mean human label with the judge's help, beside the one from the labels alone.

    `trust` is lambda: 0 ignores the judge, 1 takes its scores for labels that are right up to a
    shift.
    """

    mean: Estimate
    labels_alone: Estimate
    trust: float

    @property
    def label_gain(self) -> float:
        """Factor by which the labels alone would need more labels for the same precision."""
        return self.labels_alone.variance / self.mean.variance


def prediction_powered_mean(total: JudgedTotals, *, trust: float | None = None) -> PredictionPoweredMean:
    """Return the mean human label over all items, with the judge's help.

    trust * mean(f) over all items + weighted mean of (y - trust * f) over the labelled.

    With `trust=None` it is the one of least variance, estimated. With a constant pi this is PPI++
    with the labelled items counted among the N that the judge scored. Weighted means are Hajek's
    (divided by the sum of weights), so only differences between items add variance. The variance is
    that of the estimator's linear form

        trust (f - mean f) + w (y - trust f - mean of that),

    times n / (n - 1), or n / (n - 2) where trust was estimated, for n labels, with Student's t.

    Worked by hand: four items have judge scores 1, 0, 1, 0 and pi = 1/2; two with scores 1, 0 have
    labels 1, 0. The residuals at trust 1 are 0, 0, so the mean is that of the scores, 1/2.

    Not covered: labels missing for other reasons than the draw with pi; several labels of one item;
    items that are clustered; a judge that was tuned on these labels.

    Raises InsufficientData with fewer than 3 labels, or without spread among them.

    Source: Angelopoulos, Duchi & Zrnic (2023), PPI++, arXiv 2311.01453, section 6; Zrnic & Candes
    (2024), Active statistical inference, ICML, for weights. We depart from PPI++ by Hajek's form
    and Student's t.
    """
    checks.n_at_least(total.n_labelled, 3, "labels")
    _, weight, weighted_judge, weighted_human = total.moments.mean
    if weight <= 0:
        raise InsufficientData("the labelled items have no weight")
    human, judge = weighted_human / weight, weighted_judge / weight
    # Linear forms of the estimator at trust 0, and of what a unit of trust subtracts from it.
    plain = np.array([0.0, -human, 0.0, 1.0]) / weight
    shift = np.array([-1.0, -judge / weight, 1.0 / weight, 0.0])
    covariance = total.moments.covariance
    if trust is None:
        spread = float(shift @ covariance @ shift)
        chosen = float(plain @ covariance @ shift) / spread if spread > 0 else 0.0
    else:
        checks.finite(trust, "trust")
        chosen = trust
    fitted = 1 if trust is None else 0
    value = human - chosen * (judge - total.moments.mean[0])
    mean = _estimate(total, value, plain - chosen * shift, fitted)
    return PredictionPoweredMean(mean, _estimate(total, human, plain, 0), chosen)


def _estimate(total: JudgedTotals, value: float, form: FloatArray, fitted: int) -> Estimate:
    freedom = total.n_labelled - 1 - fitted
    variance = total.moments.combine(form.tolist()).variance / total.moments.n
    return Estimate.of_independent(value, [(variance * total.n_labelled / freedom, freedom)])
