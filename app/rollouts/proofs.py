"""How it is proven that a canary is worse than the control, or not worse by the margin. Pure.

| metric | evidence that it is worse | evidence that it is worse by less than the margin |
|---|---|---|
| proportion, the bad outcome rare | counts of bad outcomes, exact | relative: the same; else exact bounds |
| mean, ratio, other proportion | one-sided sequence of means | the same |
| quantile | exact sequences of both variants, in epochs with the same shares | the same |
| proportion or mean, `sprt` | Wald's limits on the ratio of "worse by the margin" to "no worse" | the same |

All hold at every look, and need constant shares within each epoch, which a rollout holds under every policy.
*Worsening* is an effect with its sign turned so that more of it is worse.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from operator import add
from typing import Final, Literal

import msgspec
from scipy import optimize

from app.analysis.observed import Observed
from app.analysis.readout import Bounds
from app.experiments.metrics import Margin, Metric, Proportion, QuantileOf
from app.feedback.metric_totals import MetricTotals, moments_of
from app.rollouts.model import Baseline, Proof
from stats import bounded, mixture, sequences, sequential_counts, sprt
from stats.errors import InsufficientData
from stats.estimate import Alternative
from stats.one_sided import Claim, OneSided
from stats.quantiles import QuantileSketch, quantile, quantile_sequence
from stats.sequential_counts import EventCounts
from stats.sprt import WaldLimits
from stats.totals import ProportionTotals

RARE: Final = 0.2
"""Bad outcomes below this share are counted: units without one say little then."""

_RATIO_GUESS: Final = 2.0
"""How many times more bad outcomes are expected of a bad canary, if nothing is known of the control."""
_QUANTILE_UNITS: Final = 2_000.0
"""Where a quantile's sequences are tightest: about what it takes to tell a worsening by 10 %."""
_CONTROL_UNITS: Final = 10.0
"""The control's bound is tightest at that many times the canary's units."""
_SPREAD_MAX: Final = 1e6
"""Of units, in margins: a million margins take more units than there are."""
_FACTOR_MAX: Final = 1e9


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this canary is worse than the control on this metric, in the data of these epochs.

    `worse_level` and `within_level` are the probabilities that either proof is ever made wrongly. `pooled`
    are those of the epochs that have the same shares. What cannot be stratified is compared in them alone:
    shares that move would mix the days of both variants differently.
    """

    metric: Metric
    margin: Margin
    baseline: Baseline | None
    test: Literal["sequence", "sprt"]
    canary: str
    epochs: tuple[int, ...]
    pooled: tuple[int, ...]
    worse_level: float
    within_level: float

    @property
    def sign(self) -> int:
        """1 where higher is worse."""
        return 1 if self.metric.direction == "lower" else -1

    def worsening(self, effect: float) -> float:
        """The effect, turned so that more is worse."""
        return self.sign * effect

    def proof(
        self,
        scale: Literal["log e-value", "log likelihood ratio", "bound"],
        statistic: float,
        threshold: float,
        *,
        of: Literal["worse", "within"],
    ) -> Proof:
        """The record of one side. A bound is the upper one if it is `of` being within the margin."""
        if scale != "bound":
            proven = statistic >= threshold
        else:
            proven = statistic > threshold if of == "worse" else statistic < threshold
        return Proof(
            scale=scale,
            statistic=min(max(statistic, -1e300), 1e300),  # JSON has no infinity
            threshold=threshold,
            level=self.worse_level if of == "worse" else self.within_level,
            since_epoch=self.epochs[0],
            proven=proven,
        )


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `effect` and `interval` are relative to the control, or differences, as `relative` says.

    `factor`: about how many times as much data there must
    be until one of them is made, if the effect stays what it is; None if nobody can tell.
    """

    method: str
    units: tuple[int, int]
    means: tuple[float, float]
    relative: bool
    effect: float | None
    interval: Bounds | None
    worse: Proof
    within: Proof
    factor: float | None = None


def answer(question: Question, observed: Observed) -> Compared:
    """The answer that these totals allow. Raises InsufficientData, with the reason, if there is none."""
    if isinstance(question.metric.measure, QuantileOf):
        return _quantiles(question, observed)
    strata = _strata(question, observed)
    if question.test == "sprt":
        return _sprt(question, strata)
    if isinstance(question.metric.measure, Proportion) and _counts_failures(question):
        return _counts(question, observed, strata)
    return _means(question, strata)


Strata = Sequence[tuple[MetricTotals, MetricTotals]]


def _strata(question: Question, observed: Observed) -> Strata:
    """Totals of (control, canary) in every epoch that has both."""
    found = []
    for epoch in question.epochs:
        control, canary = (
            observed.totals(question.metric.key, arm, epoch=epoch)
            for arm in (observed.control, question.canary)
        )
        if control is not None and canary is not None and min(control.n, canary.n) > 0:
            found.append((control, canary))
    if not found:
        raise InsufficientData("no epoch has a unit with a value in both variants")
    return found


# Means


def _contrast(question: Question, strata: Strata) -> OneSided:
    pairs = []
    for control, canary in strata:
        # An epoch too small for a ratio says nothing; others may.
        with suppress(InsufficientData):
            pairs.append((moments_of(question.metric, control), moments_of(question.metric, canary)))
    lower, upper = question.metric.bounds or (-math.inf, math.inf)
    return OneSided.of(*pairs, relative=question.margin.relative, bounds=(lower, upper))


def _rhos(question: Question) -> tuple[float, float]:
    """The mixtures of both proofs, each strongest where it is needed.

    That of safety where a worsening by the margin can be told; that of harm at half of these units, which is
    a worsening by 1.4 margins: what breaks a guardrail rarely breaks it by just its margin, and at just the
    margin it costs nothing (simulated).
    """
    baseline, size = question.baseline, question.margin.size
    if question.margin.relative:
        distance = abs(math.log1p(question.sign * min(size, 0.99)))
        sd = baseline.sd / baseline.mean if baseline is not None and baseline.mean > 0 else 1.0
    else:
        distance = size
        sd = baseline.sd if baseline is not None else 3 * size
    spread = min(max(sd / distance, 1 / _SPREAD_MAX), _SPREAD_MAX)
    worse, within = (
        mixture.tuned(
            max(part * sequences.units_to_tell(1.0, spread, alpha=level, alternative="greater"), 1.0),
            alpha=level,
            alternative="greater",
        )
        for part, level in ((0.5, question.worse_level), (1.0, question.within_level))
    )
    return worse, within


def _claims(question: Question) -> tuple[Claim, Claim]:
    """That it is worse, and that it is not that much worse."""
    return ("greater", "less") if question.sign > 0 else ("less", "greater")


def _means(question: Question, strata: Strata) -> Compared:
    contrast = _contrast(question, strata)
    worse, within = _claims(question)
    at_margin = contrast.scaled(question.sign * question.margin.size)
    rho_worse, rho_within = _rhos(question)
    harm = contrast.evalue(0.0, worse, rho=rho_worse).log_value
    safe = contrast.evalue(at_margin, within, rho=rho_within).log_value
    ends = sorted(
        (
            contrast.unscaled(contrast.bound(worse, alpha=question.worse_level, rho=rho_worse)),
            contrast.unscaled(contrast.bound(within, alpha=question.within_level, rho=rho_within)),
        )
    )
    scale = "a log scale" if contrast.relative else "the metric's scale"
    return Compared(
        method=f"one-sided sequences of means on {scale}, stratified by epoch",
        units=_units(strata),
        means=(contrast.control_mean, contrast.treatment_mean),
        relative=contrast.relative,
        effect=contrast.unscaled(contrast.effect),
        interval=(ends[0], ends[1]),
        worse=question.proof("log e-value", harm, -math.log(question.worse_level), of="worse"),
        within=question.proof("log e-value", safe, -math.log(question.within_level), of="within"),
        factor=_factor(
            question.worsening(contrast.effect),
            abs(at_margin),
            variance=(contrast.variance(worse), contrast.variance(within)),
            time=contrast.time,
            levels=(question.worse_level, question.within_level),
            rhos=(rho_worse, rho_within),
        ),
    )


def _units(strata: Strata) -> tuple[int, int]:
    return sum(control.n for control, _ in strata), sum(canary.n for _, canary in strata)


def _factor(
    worsening: float,
    margin: float,
    *,
    variance: tuple[float, float],
    time: float,
    levels: tuple[float, float],
    rhos: tuple[float, float],
) -> float | None:
    """How many times as much data until harm or safety is proven, if the estimate is right."""
    distances = (worsening, margin - worsening)
    found = [
        _factor_to(distance, spread, time, level=level, rho=rho)
        for distance, spread, level, rho in zip(distances, variance, levels, rhos, strict=True)
    ]
    return min((factor for factor in found if factor is not None), default=None)


def _factor_to(distance: float, variance: float, time: float, *, level: float, rho: float) -> float | None:
    """How many times as much data until a bound is as near to its estimate as that distance."""

    def excess(log_factor: float) -> float:
        later = time * math.exp(log_factor)
        limit = float(mixture.boundary(later, alpha=level, rho=rho, alternative="greater"))
        return limit * math.sqrt(variance * time) / later - distance

    farthest = math.log(_FACTOR_MAX)
    if distance <= 0 or excess(farthest) >= 0:
        return None
    return 1.0 if excess(0.0) <= 0 else math.exp(float(optimize.brentq(excess, 0.0, farthest)))


# Counts of bad outcomes


def _counts_failures(question: Question) -> bool:
    """Whether the bad outcome is known, or with "lower is better" taken, to be rare."""
    if question.baseline is None:
        return question.sign > 0
    rate = question.baseline.mean if question.sign > 0 else 1 - question.baseline.mean
    return 0 <= rate <= RARE


def _proportion(question: Question, totals: MetricTotals) -> ProportionTotals:
    """The totals of a proportion, which may be kept beside those of covariates."""
    if isinstance(totals, ProportionTotals):
        return totals
    found = moments_of(question.metric, totals)
    return ProportionTotals(found.n, min(max(round(found.n * found.mean), 0), found.n))


def _bad(question: Question, totals: MetricTotals) -> int:
    found = _proportion(question, totals)
    return found.successes if question.sign > 0 else found.n - found.successes


def _expected_ratio(question: Question) -> float:
    """By how much bad outcomes multiply if the metric is worse by just its margin."""
    size, baseline = question.margin.size, question.baseline
    if question.margin.relative and question.sign > 0:
        return 1 + max(size, 1 / _SPREAD_MAX)
    if baseline is None:
        return _RATIO_GUESS
    rate = baseline.mean if question.sign > 0 else 1 - baseline.mean
    more = size * baseline.mean if question.margin.relative else size
    return 1 + more / max(rate, more / 100)


def _counts(question: Question, observed: Observed, strata: Strata) -> Compared:
    """Given how many bad outcomes there were, how many of them the canary has.

    The canary's share of the units with a known outcome stands for its share of the traffic. Given the units
    of both, its bad outcomes are hypergeometric, less spread than the binomial numbers that the test allows
    for (Hoeffding 1963, theorem 4): that makes it the more careful.
    """
    periods = [
        EventCounts(_bad(question, control), _bad(question, canary), canary.n / (control.n + canary.n))
        for control, canary in strata
    ]
    expected = _expected_ratio(question)
    harm = sequential_counts.ratio_evalue(periods, expected_ratio=expected, alternative="greater").log_value
    relative = question.margin.relative
    control, canary = _weighted_means(question, strata)
    lower = _ratio_bound(periods, question.worse_level, expected, "greater")
    if relative and question.sign > 0:
        upper = _ratio_bound(periods, question.within_level, expected, "less")
        safe = sequential_counts.ratio_evalue(
            periods, ratio=1 + question.margin.size, expected_ratio=expected, alternative="less"
        ).log_value
        within = question.proof("log e-value", safe, -math.log(question.within_level), of="within")
    else:
        # What the ratio of bad outcomes means for the metric, at the control's rate.
        rate = control if question.sign > 0 else 1 - control
        lower *= rate / control if relative and control else rate
        upper = _worsening_at_most(question, observed)
        within = question.proof("bound", upper, question.margin.size, of="within")
    ends = sorted((question.sign * lower, question.sign * upper))
    return Compared(
        method="counts of bad outcomes, given how many there were (exact), stratified by epoch",
        units=_units(strata),
        means=(control, canary),
        relative=relative,
        effect=(canary / control - 1 if control else None) if relative else canary - control,
        interval=(_finite(ends[0]), _finite(ends[1])),
        worse=question.proof("log e-value", harm, -math.log(question.worse_level), of="worse"),
        within=within,
        factor=_counts_factor(question, periods, expected),
    )


def _weighted_means(question: Question, strata: Strata) -> tuple[float, float]:
    """Of both variants, epochs weighted alike."""
    weights = [sequences.effective_units(control.n, canary.n) for control, canary in strata]
    control, canary = (
        math.fsum(
            w * moments_of(question.metric, pair[arm]).mean for w, pair in zip(weights, strata, strict=True)
        )
        / math.fsum(weights)
        for arm in (0, 1)
    )
    return control, canary


def _ratio_bound(
    periods: Sequence[EventCounts], level: float, expected: float, side: Literal["greater", "less"]
) -> float:
    """The bound of the ratio of bad outcomes, less 1: no event bounds nothing."""
    if not any(period.control + period.treatment for period in periods):
        return -1.0 if side == "greater" else math.inf
    interval = sequential_counts.ratio_sequence(
        periods, alpha=level, expected_ratio=expected, alternative=side
    )
    return (interval.lower if side == "greater" else interval.upper) - 1


def _pooled(question: Question, observed: Observed, variant: str) -> MetricTotals | None:
    """Of one variant, over the epochs that have the same shares."""
    found = [observed.totals(question.metric.key, variant, epoch=epoch) for epoch in question.pooled]
    known = [totals for totals in found if totals is not None]
    return reduce(add, known) if known else None


def _worsening_at_most(question: Question, observed: Observed) -> float:
    """The upper bound of the worsening, from exact bounds of both proportions at half the level each."""
    pooled = [_pooled(question, observed, arm) for arm in (observed.control, question.canary)]
    if pooled[0] is None or pooled[1] is None:
        return math.inf
    control, canary = _proportion(question, pooled[0]), _proportion(question, pooled[1])
    sides: tuple[Alternative, Alternative] = ("less", "greater") if question.sign > 0 else ("greater", "less")
    baseline = question.baseline.mean if question.baseline is not None else 0.05
    reach = max(question.margin.size * (baseline if question.margin.relative else 1), 1 / _SPREAD_MAX)
    spread = math.sqrt(max(baseline * (1 - baseline), reach))
    half = question.within_level / 2
    units = max(sequences.units_to_tell(reach, spread, alpha=half, alternative="greater"), 1.0)
    of_canary = bounded.bounded_sequence(canary, alpha=half, tuned_to=units, alternative=sides[0])
    of_control = bounded.bounded_sequence(
        control, alpha=half, tuned_to=_CONTROL_UNITS * units, alternative=sides[1]
    )
    if question.sign > 0:
        return of_canary.upper - of_control.lower
    if question.margin.relative:
        return 1 - of_canary.lower / of_control.upper
    return of_control.upper - of_canary.lower


def _counts_factor(question: Question, periods: Sequence[EventCounts], expected: float) -> float | None:
    """By the normal approximation of the log ratio."""
    control, canary = (sum(getattr(period, arm) for period in periods) for arm in ("control", "treatment"))
    if not control or not canary:
        return None
    variance = 1 / control + 1 / canary
    time, levels = 1 / variance, (question.worse_level, question.within_level)
    return _factor(
        math.log(sequential_counts.likeliest_ratio(periods)),
        math.log(expected),
        variance=(variance, variance),
        time=time,
        levels=levels,
        rhos=_tuned_both(time, levels),
    )


def _tuned_both(time: float, levels: tuple[float, float]) -> tuple[float, float]:
    """The mixtures that are strongest just now."""
    worse, within = (mixture.tuned(time, alpha=level, alternative="greater") for level in levels)
    return worse, within


def _finite(bound: float) -> float | None:
    return bound if math.isfinite(bound) else None


# Quantiles


def _quantiles(question: Question, observed: Observed) -> Compared:
    """From the order statistics of both variants."""
    assert isinstance(question.metric.measure, QuantileOf)
    q = question.metric.measure.q
    control, canary = (_pooled(question, observed, arm) for arm in (observed.control, question.canary))
    if not (isinstance(control, QuantileSketch) and isinstance(canary, QuantileSketch)):
        raise InsufficientData("a variant has no value yet")

    def worsening(level: float, side: Literal["lower", "upper"]) -> float:
        """The bound of the worsening: each variant's bounds miss with half the level."""
        theirs, ours = (
            quantile_sequence(sketch, q, alpha=level, tuned_to=_QUANTILE_UNITS)
            for sketch in (control, canary)
        )
        least = ours.lower if (side == "lower") == (question.sign > 0) else ours.upper
        most = theirs.upper if (side == "lower") == (question.sign > 0) else theirs.lower
        if not question.margin.relative:
            return question.sign * (least - most)
        if most <= 0:
            raise InsufficientData("the control's quantile is not surely positive")
        return question.sign * (least / most - 1)

    lower, upper = worsening(question.worse_level, "lower"), worsening(question.within_level, "upper")
    means = quantile(control, q), quantile(canary, q)
    ends = sorted((question.sign * lower, question.sign * upper))
    return Compared(
        method=f"exact sequences of the {q:g}-quantiles",
        units=(control.n, canary.n),
        means=means,
        relative=question.margin.relative,
        effect=means[1] / means[0] - 1 if question.margin.relative else means[1] - means[0],
        interval=(ends[0], ends[1]),
        worse=question.proof("bound", lower, 0.0, of="worse"),
        within=question.proof("bound", upper, question.margin.size, of="within"),
    )


# Two named hypotheses


def _sprt(question: Question, strata: Strata) -> Compared:
    """Wald's test of "worse by just the margin" against "no worse"."""
    limits = WaldLimits(question.worse_level, question.within_level)
    size = question.sign * question.margin.size
    control, canary = _weighted_means(question, strata)
    if isinstance(question.metric.measure, Proportion) and not question.margin.relative:
        method = "SPRT on the profile likelihood of two proportions, stratified by epoch"
        pairs = [(_proportion(question, c), _proportion(question, t)) for c, t in strata]
        ratio = math.fsum(
            float(sprt.profile_log_ratio(c.n, c.successes, t.n, t.successes, effect=size)) for c, t in pairs
        )
        ratios = ratio, ratio
    else:
        method = "SPRT on means, stratified by epoch"
        contrast = _contrast(question, strata)
        at_margin = contrast.scaled(size)
        worse, within = (contrast.log_ratio(0.0, at_margin, claim) for claim in _claims(question))
        ratios = worse, within
    relative = question.margin.relative
    return Compared(
        method=method,
        units=_units(strata),
        means=(control, canary),
        relative=relative,
        effect=(canary / control - 1 if control else None) if relative else canary - control,
        interval=None,
        worse=question.proof("log likelihood ratio", ratios[0], limits.upper, of="worse"),
        within=question.proof("log likelihood ratio", -ratios[1], -limits.lower, of="within"),
    )
