"""A plan of further labels or judge calls: how far each would shrink the interval.

The error variance of a prediction-powered mean is a sum: one part per stratum falls with the labels
of that stratum, one with the number of judged responses. So the gain of each further label or call
is known before it is paid for, as far as the strata stay as they are.
"""

import math
from collections.abc import Mapping
from typing import Final

import msgspec

from stats import checks
from stats.errors import InvalidInput
from stats.prediction_powered import (
    LABELS_EXPECTED,
    JudgedTotals,
    LinearForms,
    prediction_powered_mean,
    quality_variance,
)
from stats.sequences import radius
from stats.totals import JointTotals

_LABELS_MAX: Final = 10_000_000


class LabelOption(msgspec.Struct, frozen=True):
    """Half the interval after `labels` more labels in one stratum, and the judge calls like it.

    `half_width` is that of the interval that is valid at every look. `judge_calls` is None if no
    number of them would do as much. Costs are None where the price is unknown.
    """

    stratum: str
    labels: int
    half_width: float
    cost: float | None
    judge_calls: int | None
    judge_cost: float | None


class LabelPlan(msgspec.Struct, frozen=True):
    """Half the width of the interval now, and what each stratum offers, the best first.

    `half_width_without_judge_error` is the limit that more judge calls alone approach. `silent` are
    strata without labels, about which nothing is known.
    """

    half_width: float
    half_width_without_judge_error: float
    options: tuple[LabelOption, ...]
    silent: tuple[str, ...]


def plan_labels(
    strata: Mapping[str, JudgedTotals],
    *,
    alpha: float,
    labels: int = 40,
    target: float | None = None,
    label_cost: float | None = None,
    judgement_cost: float | None = None,
    tuned_to: float = LABELS_EXPECTED,
    label_range: float = 1.0,
) -> LabelPlan:
    """Say what `labels` more labels in each stratum buy, or how many reach the half-width `target`.

    With a target, strata that cannot reach it are left out. Options are ordered by half-width,
    those for a target by number of labels.

    Worked by hand: if labels of one stratum are all of the variance 0.0004 and it has 40, then 40
    more halve it, and the fixed interval falls from 3.9 to 2.8 points.

    Raises InsufficientData where there is no interval yet; InvalidInput unless labels and target
    are positive.
    """
    if labels < 1:
        raise InvalidInput(f"labels must be at least 1, got {labels}")
    if target is not None:
        checks.positive(target, "target")
    budget = _Budget.of(strata, alpha=alpha, tuned_to=tuned_to, label_range=label_range)
    options = []
    for name, part in budget.by_labels.items():
        wanted = labels if target is None else budget.labels_for(name, target)
        if wanted is None:
            continue
        gain = part * wanted / (budget.labels[name] + wanted)
        calls = budget.judge_calls(gain)
        options.append(
            LabelOption(
                stratum=name,
                labels=wanted,
                half_width=budget.half_width(gain, wanted),
                cost=None if label_cost is None else wanted * label_cost,
                judge_calls=calls,
                judge_cost=None if judgement_cost is None or calls is None else calls * judgement_cost,
            )
        )
    options.sort(key=lambda option: (option.labels, option.half_width))
    return LabelPlan(
        half_width=budget.half_width(0.0, 0),
        half_width_without_judge_error=budget.half_width(budget.by_judging, 0),
        options=tuple(options),
        silent=tuple(name for name, total in strata.items() if not total.n_labelled),
    )


class _Budget(msgspec.Struct, frozen=True):
    """The parts of an error variance, and what they depend on."""

    variance: float
    by_labels: dict[str, float]
    by_judging: float
    labels: dict[str, int]
    n_judged: int
    effective_labels: float
    label_variance: float
    alpha: float
    tuned_to: float
    label_range: float

    @classmethod
    def of(
        cls, strata: Mapping[str, JudgedTotals], *, alpha: float, tuned_to: float, label_range: float
    ) -> "_Budget":
        whole = JudgedTotals.none()
        for total in strata.values():
            whole = whole + total
        quality = prediction_powered_mean(whole)
        form = LinearForms.of(whole).combined(quality.trust)
        judging, labelling = [*form[:2], 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, *form[2:]]
        n = whole.moments.n
        raw = whole.moments.combine(form).m2 / n**2
        # The reported variance has a factor for estimated means and trust; the parts get it too.
        factor = quality.mean.variance / raw
        return cls(
            variance=quality.mean.variance,
            by_labels={
                name: factor * _squares(total.moments, labelling) / n**2
                for name, total in strata.items()
                if total.n_labelled
            },
            by_judging=min(factor * _squares(whole.moments, judging) / n**2, quality.mean.variance),
            labels={name: total.n_labelled for name, total in strata.items()},
            n_judged=whole.n_judged,
            effective_labels=quality.effective_labels,
            label_variance=quality.labels_alone.variance * quality.effective_labels,
            alpha=alpha,
            tuned_to=tuned_to,
            label_range=label_range,
        )

    def half_width(self, gain: float, more_labels: int) -> float:
        """Return half the width once the variance has fallen by `gain`."""
        variance = max(self.variance - gain, 1e-300)
        labels = self.effective_labels + more_labels
        raised = quality_variance(variance, labels, label_range=self.label_range)
        time = self.label_variance / variance
        return float(radius(raised, time, alpha=self.alpha, tuned_to=self.tuned_to))

    def labels_for(self, stratum: str, target: float) -> int | None:
        """Return the least number of labels in a stratum that reaches a half-width."""
        part, present = self.by_labels[stratum], self.labels[stratum]

        def reaches(more: int) -> bool:
            return self.half_width(part * more / (present + more), more) <= target

        low, high = 0, 1
        while not reaches(high):
            low, high = high, 2 * high
            if high > _LABELS_MAX:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if reaches(middle) else (middle, high)
        return high

    def judge_calls(self, gain: float) -> int | None:
        """Return how many more judged responses lower the variance by `gain`; None if none do."""
        if gain >= self.by_judging:
            return None
        return math.ceil(self.n_judged * gain / (self.by_judging - gain))


def _squares(moments: JointTotals, form: list[float]) -> float:
    """Return the sum of squares of a form over units, not centred."""
    total = moments.combine(form)
    return total.m2 + total.n * total.mean**2
