"""The gate of a judge: whether its labels agree well enough with those of people.

Percent agreement and kappa depend on how frequent each label is: a judge that always says "good"
agrees in 95 % of cases where 95 % are good. So the gate asks for each human label on its own how
often the judge gives the same one. With two labels these are sensitivity and specificity; with more
they are the diagonal of the agreement matrix. Each of them needs a lower confidence bound above
what is required. The bounds hold at every look, so one may look after each label until the gate
opens.

What is required is limited by how well people agree with one another, because no judge can agree
better with a person than another person. A predictor that always gives the same label has a mean
recall of 1 / (number of labels): the judge has to be above it.

Responses may be labelled and judged with different known probabilities, and belong to units. Each
recall is then a ratio of weighted sums, and counts as many labels as a simple random sample of the
same precision would have (Korn and Graubard). The bound is exact for independent labels with equal
weights, and otherwise approximate.
"""

import math
from typing import Final, Literal, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from stats import checks
from stats.bounded import bounded_sequence
from stats.errors import InsufficientData, InvalidInput
from stats.ratios import ratio_parts
from stats.totals import FloatArray, JointTotals, MeanTotals

IntArray = NDArray[np.int64]
Verdict = Literal["passed", "failed", "undecided"]

CLASSES_MAX: Final = 10
RECALL_REQUIRED: Final = 0.8
"""What the lower bound of each recall has to exceed by default.

In a label with 50 reviews this takes at most 3 disagreements.
"""
ERROR: Final = 0.05
LABELS_EXPECTED: Final = 50
"""Labels per class at which the bounds are tightest by default."""

_CEILING_LABELS_MIN: Final = 10
_LABELS_MAX: Final = 1_000_000
_SALT: Final = 0x9E3779B97F4A7C15


def held_out(unit_hashes: IntArray, *, share: float = 0.5) -> NDArray[np.bool_]:
    """Return the mask of units that belong to the held-out part, shape (n,).

    The part of a unit depends on its hash and `share` alone, so it never changes, and all responses
    of a unit are in the same part. The author of the judge's prompt may see the other part. A
    larger share contains a smaller one.

    Raises InvalidInput unless share is in (0, 1).

    Source: Steele, Lea & Flood (2014), OOPSLA, SplitMix64, so that the part is independent of the
    variant, which depends on the same hash.
    """
    checks.open_unit(share, "share")
    mixed = np.asarray(unit_hashes, dtype=np.int64).view(np.uint64) + np.uint64(_SALT)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    part: NDArray[np.bool_] = (mixed >> np.uint64(11)) * 2.0**-53 < share
    return part


class AgreementTotals(msgspec.Struct, frozen=True):
    """Totals over units of how often each pair of labels (human, judge) occurs.

    `moments` has k^2 values per unit: the sums of weights 1 / inclusion of its responses with human
    label i and judge label j, at position i k + j. `n_labelled` counts responses.

    Raises InvalidInput unless the number of values is a square of at least 2 and at most 10 labels.
    """

    moments: JointTotals
    n_labelled: int

    def __post_init__(self) -> None:
        k = self.n_classes
        if k**2 != self.moments.dimension or not 2 <= k <= CLASSES_MAX:
            raise InvalidInput(
                f"needs the square of 2 to {CLASSES_MAX} labels as values, got {self.moments.dimension}"
            )
        checks.not_negative(self.n_labelled, "n_labelled")

    @classmethod
    def from_observations(
        cls,
        human: IntArray,
        judge: IntArray,
        *,
        n_classes: int,
        inclusion: FloatArray | None = None,
        units: IntArray | None = None,
    ) -> "AgreementTotals":
        """Sum labels 0 to n_classes - 1, shape (n,), with their inclusion probabilities.

        Raises InvalidInput if a label or probability is out of range, or shapes differ.
        """
        if not 2 <= n_classes <= CLASSES_MAX:
            raise InvalidInput(f"n_classes must be from 2 to {CLASSES_MAX}, got {n_classes}")
        n = len(human)
        inclusion = np.ones(n) if inclusion is None else inclusion
        units = np.arange(n) if units is None else units
        shapes = {array.shape for array in (human, judge, inclusion, units)}
        if len(shapes) != 1:
            raise InvalidInput(f"shapes differ: {', '.join(map(str, sorted(shapes)))}")
        for labels in (human, judge):
            if n and not (labels.min() >= 0 and labels.max() < n_classes):
                raise InvalidInput(f"labels must be from 0 to {n_classes - 1}")
        if not ((inclusion > 0) & (inclusion <= 1)).all():
            raise InvalidInput("inclusion probabilities must be in (0, 1]")
        if not n:
            return cls(JointTotals.none(n_classes**2), 0)
        _, codes = np.unique(units, return_inverse=True)
        sums = np.zeros((int(codes.max()) + 1, n_classes**2))
        np.add.at(sums, (codes, human * n_classes + judge), 1 / inclusion)
        return cls(JointTotals.from_observations(sums), n)

    @property
    def n_classes(self) -> int:
        """Number k of labels."""
        return math.isqrt(self.moments.dimension)

    def __add__(self, other: Self) -> "AgreementTotals":
        return AgreementTotals(self.moments + other.moments, self.n_labelled + other.n_labelled)

    @property
    def shares(self) -> FloatArray:
        """Weighted share of each pair (human label, judge label), shape (k, k), summing to 1.

        Raises InsufficientData without labels.
        """
        checks.n_at_least(self.n_labelled, 1, "labels")
        matrix: FloatArray = np.array(self.moments.mean).reshape(self.n_classes, self.n_classes)
        shares: FloatArray = matrix / matrix.sum()
        return shares

    def recall(self, label: int) -> MeanTotals:
        """Return the share of a human label that the judge repeats, as totals of equal weights.

        Their number is that of a simple random sample of the same precision, rounded down. Without
        this label there are no units.

        Source: Korn & Graubard (1998), Survey Methodology 24(2), for the effective number.
        """
        k = self.n_classes
        return self._share(agreeing=[label * k + label], among=[label * k + judged for judged in range(k)])

    @property
    def agreement(self) -> MeanTotals:
        """Share of all responses with equal labels, as totals of equal weights."""
        k = self.n_classes
        return self._share(agreeing=[label * k + label for label in range(k)], among=list(range(k**2)))

    def _share(self, *, agreeing: list[int], among: list[int]) -> MeanTotals:
        numerator, denominator = np.zeros(self.moments.dimension), np.zeros(self.moments.dimension)
        numerator[agreeing], denominator[among] = 1.0, 1.0
        weight = self.moments.combine(denominator.tolist())
        total = weight.n * weight.mean
        if total <= 0:
            return MeanTotals()
        value = min(self.moments.combine(numerator.tolist()).mean / weight.mean, 1.0)
        effective = total**2 / (weight.m2 + weight.n * weight.mean**2)
        pair = np.stack((numerator, denominator))
        means, products = pair @ np.array(self.moments.mean), pair @ self.moments.matrix @ pair.T
        lower_triangle = (products[0, 0], products[1, 0], products[1, 1])
        try:
            squares = ratio_parts(JointTotals(self.moments.n, tuple(means), lower_triangle)).m2
        except InsufficientData:
            squares = 0.0
        if squares > 0:
            effective = min(effective, value * (1 - value) * self.moments.n**2 / squares)
        n = max(math.floor(effective + 1e-6), 1)
        return MeanTotals(n, value, n * value * (1 - value))


class Recall(msgspec.Struct, frozen=True):
    """Share of one human label that the judge repeats, with its bounds.

    `lower` and `upper` hold at every look. `labels` is the effective number of responses with this
    human label. `required` is what `lower` has to exceed. `more_labels` is the number of further
    labels of this kind that would decide if the share stays as it is; None if it is decided, or if
    no affordable number would.
    """

    label: int
    value: float | None
    lower: float
    upper: float
    labels: int
    required: float
    ceiling: float | None
    more_labels: int | None


class Calibration(msgspec.Struct, frozen=True):
    """The decision of the gate, with the reasons in words.

    `matrix` is the share of judge labels (columns) among each human label (rows), NaN without that
    human label. `constant` is the agreement of the best predictor that always gives the same label,
    and `agreement` that of the judge. `more_labels` is the number of further labels, drawn as
    before, that would decide.
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    recalls: tuple[Recall, ...]
    matrix: tuple[tuple[float, ...], ...]
    agreement: float | None
    constant: float | None
    kappa: float | None
    n_labelled: int
    more_labels: int | None


def calibrate(
    total: AgreementTotals,
    *,
    ceiling: AgreementTotals | None = None,
    required: float = RECALL_REQUIRED,
    alpha: float = ERROR,
    names: tuple[str, ...] | None = None,
    tuned_to: float = LABELS_EXPECTED,
) -> Calibration:
    """Decide whether a judge agrees with people, from labels that its prompt was not tuned on.

    It passes if the lower bound of every recall exceeds what is required, and the mean of the
    bounds exceeds 1 / k. It fails if an upper bound is below what is required. Otherwise it is
    undecided. What is required is `required`, or the recall of people among themselves where that
    is lower; `ceiling` holds the totals of ordered pairs of reviewers. A judge that deserves to
    fail passes with probability at most alpha, however often one looks.

    Worked by hand: 45 of 45 and 44 of 45 agree: the lower bounds are 0.923 and 0.862, above 0.8:
    passed.

    Raises InvalidInput unless required and alpha are in (0, 1) and there is a name for each label.
    """
    checks.open_unit(required, "required")
    checks.open_unit(alpha, "alpha")
    k = total.n_classes
    names = names or tuple(str(label) for label in range(k))
    if len(names) != k:
        raise InvalidInput(f"needs {k} names of labels, got {len(names)}")
    if ceiling is not None and ceiling.n_classes != k:
        raise InvalidInput(f"the ceiling has {ceiling.n_classes} labels, the judge {k}")
    bar = _Bar(required, alpha, k, tuned_to)
    recalls = tuple(_recall(total, ceiling, label, bar) for label in range(k))
    reasons = [reason for recall in recalls for reason in _reasons(recall, names[recall.label])]
    above_constant = sum(recall.lower for recall in recalls) > 1.0
    if any(recall.upper < recall.required for recall in recalls):
        verdict: Verdict = "failed"
    elif all(recall.lower > recall.required for recall in recalls) and above_constant:
        verdict = "passed"
    else:
        verdict = "undecided"
        if not above_constant:
            reasons.append(
                "not proven better than a predictor that always says the same: mean recall is "
                f"at least {sum(recall.lower for recall in recalls) / k:.2f}, "
                f"and that predictor has {1 / k:.2f}"
            )
    shares = total.shares if total.n_labelled else np.full((k, k), np.nan)
    rows = shares.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        matrix = np.where(rows > 0, shares / rows, np.nan)
    known = total.n_labelled > 0
    return Calibration(
        verdict=verdict,
        reasons=tuple(reasons),
        recalls=recalls,
        matrix=tuple(map(tuple, matrix.tolist())),
        agreement=float(np.trace(shares)) if known else None,
        constant=float(rows.max()) if known else None,
        kappa=_kappa(shares) if known else None,
        n_labelled=total.n_labelled,
        more_labels=_more_labels(recalls, total) if verdict == "undecided" else None,
    )


class _Bar(msgspec.Struct, frozen=True):
    """Requirements of the gate: the bar of each recall, and the error."""

    required: float
    alpha: float
    n_classes: int
    tuned_to: float

    def lower(self, share: MeanTotals) -> float:
        return bounded_sequence(share, alpha=self.alpha, tuned_to=self.tuned_to, alternative="greater").lower

    def upper(self, share: MeanTotals) -> float:
        # The claim "failed" is about any of the labels, so they share its error.
        alpha = self.alpha / self.n_classes
        return bounded_sequence(share, alpha=alpha, tuned_to=self.tuned_to, alternative="less").upper

    def more_labels(self, share: MeanTotals, least: float) -> int | None:
        """Return how many more labels would decide. Of an unseen label, all are taken to agree."""
        value = share.mean if share.n else 1.0

        def decides(n: int) -> bool:
            totals = MeanTotals(n, value, n * value * (1 - value))
            return self.lower(totals) > least if value > least else self.upper(totals) < least

        low, high = share.n, max(2 * share.n, 8)
        while not decides(high):
            low, high = high, 2 * high
            if high > _LABELS_MAX:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if decides(middle) else (middle, high)
        return high - share.n


def _recall(total: AgreementTotals, ceiling: AgreementTotals | None, label: int, bar: _Bar) -> Recall:
    share = total.recall(label)
    people = ceiling.recall(label) if ceiling is not None else MeanTotals()
    known = people.n >= _CEILING_LABELS_MIN
    least = min(bar.required, people.mean) if known else bar.required
    lower, upper = bar.lower(share), bar.upper(share)
    return Recall(
        label=label,
        value=share.mean if share.n else None,
        lower=lower,
        upper=upper,
        labels=share.n,
        required=least,
        ceiling=people.mean if known else None,
        more_labels=None if lower > least or upper < least else bar.more_labels(share, least),
    )


def _more_labels(recalls: tuple[Recall, ...], total: AgreementTotals) -> int | None:
    """Return the number of further labels of any kind that bring enough of the scarcest kind.

    A kind that was never seen is taken to be as frequent as one in all labels.
    """
    needed = 0
    for recall in recalls:
        if recall.lower > recall.required:
            continue
        if recall.more_labels is None:
            return None
        per_label = max(recall.labels, 1) / max(total.n_labelled, len(recalls))
        needed = max(needed, math.ceil(recall.more_labels / per_label))
    return needed or None


def _reasons(recall: Recall, name: str) -> list[str]:
    if recall.value is None:
        return [f"no response has the human label {name!r}, so nothing shows that the judge recognizes it"]
    share = f"{recall.value:.2f} (at least {recall.lower:.2f}) of {recall.labels} labels {name!r}"
    limit = f"{recall.required:.2f}"
    if recall.ceiling is not None and recall.ceiling <= recall.required:
        limit += f", which is how far people agree on {name!r}"
    if recall.upper < recall.required:
        return [f"the judge repeats only {share}, at most {recall.upper:.2f}; required is {limit}"]
    if recall.lower > recall.required:
        return [f"the judge repeats {share}; required is {limit}"]
    more = "" if recall.more_labels is None else f"; {recall.more_labels} more of them would decide"
    return [f"the judge repeats {share}, which does not prove {limit}{more}"]


def _kappa(shares: FloatArray) -> float | None:
    """Return Cohen's kappa of a matrix of shares; None where chance agreement is certain."""
    chance = float(shares.sum(axis=1) @ shares.sum(axis=0))
    return (float(np.trace(shares)) - chance) / (1 - chance) if chance < 1 - 1e-12 else None
