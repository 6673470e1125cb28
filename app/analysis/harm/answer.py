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
from typing import Annotated, Final, Literal, NamedTuple

import msgspec
from scipy import optimize

from app.analysis.observed import Observed
from app.analysis.readout.record import Bounds
from app.core import limits
from app.experiments.metrics import Margin, Metric, Proportion, QuantileOf, Ratio
from app.ledger.units.metric_totals import MetricTotals, moments_of
from stats import bounded, mixture, sequences, sequential_counts, sprt
from stats.errors import InsufficientData
from stats.estimate import Alternative
from stats.one_sided import Claim, OneSided
from stats.quantiles import QuantileSketch, quantile, quantile_bound
from stats.sequential_counts import EventCounts
from stats.sprt import WaldLimits
from stats.totals import JointTotals, MeanTotals, ProportionTotals

RARE: Final = 0.2
"""Bad outcomes below this share are counted: units without one say little then."""

_RATIO_GUESS: Final = 2.0
"""How many times more bad outcomes are expected of a bad canary, if nothing is known of the control."""
_QUANTILE_UNITS: Final = 2_000.0
"""Where a quantile's sequences are tightest: about what it takes to tell a worsening by 10 %."""
_CONTROL_UNITS: Final = 10.0
"""The control's bound is tightest at that many times the canary's units."""
STAND_IN: Final = 0.1
"""The part of a level that is kept for each test that stands in where the sharpest is undefined or slow.

The parts of all tests of a proof sum to 1, so that a union bound keeps the level; it costs the sharpest one
0.1 of about 7 nats of evidence.
"""
TOTAL_RATIO: Final = 20.0
"""The scale of how many times more bad outcomes a canary has that fails totally."""
_RESOLUTION: Final = 1e-9
"""Smaller differences, in relation to a value, are those of rounding."""
_SEQUENCES: Final = "one-sided sequences of means on"
_COUNTS: Final = "counts of bad outcomes, given how many there were (exact)"
_SPREAD_MAX: Final = 1e6
"""Of units, in margins: a million margins take more units than there are."""
_FACTOR_MAX: Final = 1e9


class Baseline(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Mean and standard deviation of one unit under the control, known before the start.

    They say where tests are strongest and how long to wait; no guarantee rests on them.
    """

    mean: Annotated[float, msgspec.Meta(ge=-limits.SIGNAL_VALUE_MAX, le=limits.SIGNAL_VALUE_MAX)]
    sd: Annotated[float, msgspec.Meta(gt=0, le=limits.SIGNAL_VALUE_MAX)]


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a test at one look: `statistic` against `threshold`, which it reaches if `proven`.

    `level` is the probability that it is ever reached wrongly. `since_epoch` is the first epoch whose data
    are in it. On the scale `log e-value` or `log likelihood ratio` the statistic has to reach the threshold;
    on the scale `bound` it is the confidence bound of the worsening, and has to pass it.
    """

    scale: Literal["log e-value", "log likelihood ratio", "bound"]
    statistic: float
    threshold: float
    level: float
    since_epoch: int
    proven: bool


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

    def margin_at(self, control: float) -> float:
        """The margin in the metric's own unit, where the control has this value."""
        return self.margin.size * (abs(control) if self.margin.relative else 1.0)

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
            # Proven not to be worse at all is within every margin, also within one that is 0.
            within = statistic < threshold or statistic <= 0
            proven = statistic > threshold if of == "worse" else within
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
    be until one of them is made, if the effect stays what it is; None if nobody can tell. `note`: in words,
    which test decides in place of the usual one, and why; empty where the usual one does.
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
    note: str = ""


def answer(question: Question, observed: Observed) -> Compared:
    """The answer that these totals allow. Raises InsufficientData, with the reason, if there is none."""
    if isinstance(question.metric.measure, QuantileOf):
        return _quantiles(question, observed)
    strata = _strata(question, observed)
    if question.test == "sprt":
        return _sprt(question, observed, strata)
    if isinstance(question.metric.measure, Proportion) and _counts_failures(question):
        return _counts(question, observed, strata)
    return _means(question, observed, strata)


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


class _Evidence(NamedTuple):
    """What one test says against "no worse": a log e-value, that holds at `part` of the level.

    `bound` is the least worsening at that part of the level, in the metric's own unit; None if not known.
    """

    part: float
    log_value: float
    method: str
    bound: float | None = None

    @property
    def weighted(self) -> float:
        """Comparable with the threshold of the whole level."""
        return self.log_value + math.log(self.part)


def _pairs(question: Question, strata: Strata) -> list[tuple[MeanTotals, MeanTotals]]:
    """Moments of (control, canary) in every epoch in which both have some."""
    pairs = []
    for control, canary in strata:
        # An epoch too small for a ratio says nothing; others may.
        with suppress(InsufficientData):
            pairs.append((unit_moments(question.metric, control), unit_moments(question.metric, canary)))
    if not pairs:
        raise InsufficientData("the denominators are not far enough from 0 for a ratio of both variants")
    return _with_one_rate(pairs) if isinstance(question.metric.measure, Proportion) else pairs


def unit_moments(metric: Metric, totals: MetricTotals) -> MeanTotals:
    """Totals of one number per unit whose mean is the metric and whose spread is its error.

    Unlike `moments_of` it answers for a ratio without any spread: one that is 0, or the same for every unit.

    Raises InsufficientData if a ratio's mean denominator is within 3 standard errors of 0.
    """
    if not (isinstance(totals, JointTotals) and isinstance(metric.measure, Ratio)):
        return moments_of(metric, totals)
    denominator = totals.value(1)
    error = math.sqrt(denominator.variance / totals.n) if totals.n > 1 else 0.0
    if not totals.n or not denominator.mean or abs(denominator.mean) < 3 * error:
        raise InsufficientData("the mean denominator is not far enough from 0 for a ratio")
    value = totals.mean[0] / denominator.mean
    residual = totals.combine((1 / denominator.mean, -value / denominator.mean))
    return MeanTotals(totals.n, value, residual.m2)


def _with_one_rate(pairs: list[tuple[MeanTotals, MeanTotals]]) -> list[tuple[MeanTotals, MeanTotals]]:
    """Proportions with the canary's spread taken from its rate over all epochs.

    By concavity that is no less than the spread within epochs. Then one more bad outcome never raises the
    variance by more than it raises the effect.
    """
    n = sum(canary.n for _, canary in pairs)
    rate = math.fsum(canary.n * canary.mean for _, canary in pairs) / n
    unit = max(rate * (1 - rate), 0.0)
    return [(control, MeanTotals(canary.n, canary.mean, canary.n * unit)) for control, canary in pairs]


def _resolution(question: Question, control: MeanTotals) -> float:
    """Differences up to this are those of rounding; a shift of the canary does not change it."""
    return _RESOLUTION * max(abs(control.mean), 0.0 if question.margin.relative else question.margin.size)


def _is_constant(question: Question, pairs: Sequence[tuple[MeanTotals, MeanTotals]]) -> bool:
    """Whether all values of a variant in an epoch are the same, up to rounding."""
    return all(
        arm.m2 <= arm.n * _resolution(question, control) ** 2
        for control, canary in pairs
        for arm in (control, canary)
    )


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


class _Contrasts(NamedTuple):
    """Both scales of a comparison of means; `log` is None, for the reason `why`, unless both are positive."""

    pairs: Sequence[tuple[MeanTotals, MeanTotals]]
    absolute: OneSided
    log: OneSided | None
    why: str

    @classmethod
    def of(cls, question: Question, pairs: Sequence[tuple[MeanTotals, MeanTotals]]) -> "_Contrasts":
        """Raises InsufficientData before the burn-in, or without any spread."""
        bounds = question.metric.bounds or (-math.inf, math.inf)
        absolute = OneSided.of(*pairs, relative=False, bounds=bounds)
        if _is_constant(question, pairs):
            raise InsufficientData("the values of a variant do not differ, so nothing says how sure they are")
        control, canary = absolute.control_mean, absolute.treatment_mean
        if question.margin.relative and min(control, canary) > 0:
            return cls(pairs, absolute, OneSided.of(*pairs, relative=True, bounds=bounds), "")
        name, mean = ("control's", control) if control <= 0 else ("canary's", canary)
        return cls(pairs, absolute, None, f"the {name} mean of {mean:g} has no logarithm")

    @property
    def scale(self) -> float:
        """What a relative effect is relative to; 0 where nothing is."""
        return abs(self.absolute.control_mean)


def _means(question: Question, observed: Observed, strata: Strata) -> Compared:
    """Sequences of means, and beside them the tests that decide where these cannot, or only slowly."""
    others = _stand_ins(question, strata)
    try:
        pairs = _pairs(question, strata)
        if _has_burned_in(pairs) and _is_constant(question, pairs):
            return _constants(question, observed, strata, pairs)
        contrasts = _Contrasts.of(question, pairs)
    except InsufficientData:
        if (found := _by_stand_ins(question, strata, others)) is None:
            raise
        return found
    main = contrasts.log or contrasts.absolute
    worse, _ = _claims(question)
    harm = max((*_harm_of_means(question, contrasts, taken=len(others)), *others), key=_weighted)
    within, upper = _within_of_means(question, contrasts)
    lower = _least_worsening(question, contrasts, taken=len(others))
    relative = question.margin.relative and contrasts.scale > 0
    effect = contrasts.absolute.effect / contrasts.scale if relative else contrasts.absolute.effect
    ends = sorted((question.sign * lower, question.sign * upper))
    proof = question.proof("log e-value", harm.weighted, -math.log(question.worse_level), of="worse")
    at_margin = main.scaled(question.sign * min(question.margin.size, 1e300)) if main.relative else None
    margin = abs(at_margin) if at_margin is not None else question.margin_at(contrasts.absolute.control_mean)
    return Compared(
        method=harm.method if proof.proven else _method_of_means(contrasts),
        units=_units(strata),
        means=(contrasts.absolute.control_mean, contrasts.absolute.treatment_mean),
        relative=relative,
        effect=_finite(effect),
        interval=(_finite(ends[0]), _finite(ends[1])),
        worse=proof,
        within=within,
        factor=_factor(
            question.worsening(main.effect),
            margin,
            variance=(main.variance(worse), main.variance(_claims(question)[1])),
            time=main.time,
            levels=(question.worse_level, question.within_level),
            rhos=_rhos(question),
        ),
        note=_note_of_means(question, contrasts, harm if proof.proven else None),
    )


def _note_of_means(question: Question, contrasts: _Contrasts, harm: _Evidence | None) -> str:
    """Why it is not the usual test that answers, if so."""
    notes = []
    if question.margin.relative and contrasts.log is None:
        notes.append(f"{contrasts.why}, so the difference of means is tested")
    if question.margin.relative and not contrasts.scale and harm is None:
        notes.append("a margin relative to a control of 0 allows nothing, an absolute margin would")
    if harm is not None and not harm.method.startswith(_SEQUENCES):
        notes.append(f"by {harm.method}")
    return "; ".join(notes)


def _weighted(evidence: _Evidence) -> float:
    return evidence.weighted


def _has_burned_in(pairs: Sequence[tuple[MeanTotals, MeanTotals]]) -> bool:
    return all(sum(pair[arm].n for pair in pairs) >= sequences.ARM_UNITS_MIN for arm in (0, 1))


def _method_of_means(contrasts: _Contrasts) -> str:
    if contrasts.log is not None:
        return f"{_SEQUENCES} a log scale, stratified by epoch"
    return f"{_SEQUENCES} the metric's scale, stratified by epoch"


def _harm_of_means(question: Question, contrasts: _Contrasts, *, taken: int) -> tuple[_Evidence, ...]:
    """Evidence by the sequences of means. `taken` tests beside them have a part of the level each.

    A rise is tested on a log scale where the margin is relative, a fall always by the difference: see
    `stats.one_sided` for which of them grows with every further harm. Where a rise has no logarithm the
    difference has a part of the level that is always kept for it.
    """
    worse, _ = _claims(question)
    rho, _ = _rhos(question)
    rest = 1 - STAND_IN * taken
    log_scale = question.margin.relative and question.sign > 0
    found = []
    for contrast, part, method in (
        (contrasts.log if log_scale else None, rest - STAND_IN, f"{_SEQUENCES} a log scale"),
        (contrasts.absolute, STAND_IN if log_scale else rest, f"{_SEQUENCES} the metric's scale"),
    ):
        if contrast is None:
            continue
        value = contrast.evalue(0.0, worse, rho=rho).log_value
        bound = contrast.unscaled(contrast.bound(worse, alpha=part * question.worse_level, rho=rho))
        if contrast.relative:
            bound *= contrasts.scale
        found.append(_Evidence(part, value, f"{method}, stratified by epoch", question.sign * bound))
    return tuple(found)


def _least_worsening(question: Question, contrasts: _Contrasts, *, taken: int) -> float:
    """The lower bound of the worsening by the sequences, relative where the margin is and there is a base."""
    bounds = [one.bound for one in _harm_of_means(question, contrasts, taken=taken) if one.bound is not None]
    return max(bounds) / (contrasts.scale if question.margin.relative and contrasts.scale else 1.0)


def _within_of_means(question: Question, contrasts: _Contrasts) -> tuple[Proof, float]:
    """The proof of being within the margin, and the upper bound of the worsening that is shown with it.

    An absolute margin by the difference of means. A relative one on a log scale; without a logarithm by the
    difference of the canary's mean and what the margin allows, at a part of the level that is kept for it.
    """
    _, within = _claims(question)
    _, rho = _rhos(question)
    level, threshold = question.within_level, -math.log(question.within_level)
    if not question.margin.relative:
        contrast, part = contrasts.absolute, 1.0
        value = contrast.evalue(question.sign * question.margin.size, within, rho=rho).log_value
    elif contrasts.log is not None:
        contrast, part = contrasts.log, 1 - STAND_IN
        value = contrast.evalue(
            contrast.scaled(question.sign * question.margin.size), within, rho=rho
        ).log_value
    else:
        contrast, part = contrasts.absolute, STAND_IN
        value = _allowed(question, contrasts).evalue(0.0, within, rho=rho).log_value
    bound = question.sign * contrast.unscaled(contrast.bound(within, alpha=part * level, rho=rho))
    if question.margin.relative and not contrast.relative and contrasts.scale:
        bound /= contrasts.scale
    return question.proof("log e-value", value + math.log(part), threshold, of="within"), bound


def _allowed(question: Question, contrasts: _Contrasts) -> OneSided:
    """The canary's mean less the worst that the margin allows, a multiple of the control's."""
    control_mean = contrasts.absolute.control_mean
    factor = 1 + question.sign * question.margin.size * math.copysign(1.0, control_mean)
    scaled = [
        (MeanTotals(control.n, factor * control.mean, factor**2 * control.m2), canary)
        for control, canary in contrasts.pairs
    ]
    return OneSided.of(*scaled, relative=False)


def _constants(
    question: Question, observed: Observed, strata: Strata, pairs: Sequence[tuple[MeanTotals, MeanTotals]]
) -> Compared:
    """Where no variant has any spread, its values can only be counted: those that are worse.

    Harm is an exact test of how many of the worse values the canary has. Safe is a canary that is no worse
    than the control or worse by less than the margin, if a unit's spread, of which none was seen, is three
    margins, as `planner` takes it to be; a proportion has exact bounds instead.
    """
    shares = [canary.n / (control.n + canary.n) for control, canary in pairs]
    weights = [sequences.effective_units(control.n, canary.n) for control, canary in pairs]
    control, canary = (
        math.fsum(w * pair[arm].mean for w, pair in zip(weights, pairs, strict=True)) / math.fsum(weights)
        for arm in (0, 1)
    )
    periods = []
    for (theirs, ours), share in zip(pairs, shares, strict=True):
        worsening = question.worsening(ours.mean - theirs.mean)
        same = abs(worsening) <= _resolution(question, theirs)
        periods.append(
            EventCounts(
                0 if same or worsening > 0 else theirs.n, 0 if same or worsening < 0 else ours.n, share
            )
        )
    harm = sequential_counts.ratio_evalue(periods, expected_ratio=TOTAL_RATIO).log_value
    scale = abs(control)
    relative = question.margin.relative and scale > 0
    zero = (
        "; a margin relative to a control of 0 allows nothing" if relative < question.margin.relative else ""
    )
    return Compared(
        method="counts of worse values (exact): the values of each variant have no spread",
        units=_units(strata),
        means=(control, canary),
        relative=relative,
        effect=_finite((canary - control) / scale if relative else canary - control),
        interval=None,
        worse=question.proof("log e-value", harm, -math.log(question.worse_level), of="worse"),
        within=_constant_within(question, observed, control, canary, math.fsum(weights)),
        note=f"the values of a variant do not differ, so worse values are counted{zero}",
    )


def _constant_within(
    question: Question, observed: Observed, control: float, canary: float, time: float
) -> Proof:
    margin = question.margin_at(control)
    if isinstance(question.metric.measure, Proportion) and margin > 0:
        upper = _worsening_at_most(question, observed)
        # Of a rise the bound is a difference, as is then the margin.
        threshold = margin if question.sign > 0 else question.margin.size
        return question.proof("bound", upper, threshold, of="within")
    threshold = -math.log(question.within_level)
    if margin <= 0:
        return question.proof("log e-value", 0.0, threshold, of="within")
    _, rho = _rhos(question)
    score = (margin - question.worsening(canary - control)) / (3 * margin) * time
    value = float(mixture.log_mixture(score, time, rho=rho, alternative="greater"))
    return question.proof("log e-value", value, threshold, of="within")


def _stand_ins(question: Question, strata: Strata) -> tuple[_Evidence, ...]:
    """Tests of the same harm that a kind of metric always has beside its sequence of means.

    Each has `STAND_IN` of the level. A proportion: counts of bad outcomes, exact from the first unit on. A
    ratio: the canary's numerator less what its denominator makes at the control's ratio, which is defined
    where the canary's denominator, and so its ratio, is not.
    """
    if isinstance(question.metric.measure, Proportion):
        value = sequential_counts.ratio_evalue(
            _bad_counts(question, strata), expected_ratio=TOTAL_RATIO
        ).log_value
        return (_Evidence(STAND_IN, value, f"{_COUNTS}, stratified by epoch"),)
    if isinstance(question.metric.measure, Ratio):
        return (_numerators(question, strata),)
    return ()


def _numerators(question: Question, strata: Strata) -> _Evidence:
    worse, _ = _claims(question)
    rho, _ = _rhos(question)
    method = "one-sided sequence of numerators less what the control's ratio expects, stratified by epoch"
    pairs = []
    for control, canary in strata:
        with suppress(InsufficientData):
            assert isinstance(control, JointTotals)
            assert isinstance(canary, JointTotals)
            value = unit_moments(question.metric, control).mean
            pairs.append((control.combine((1.0, -value)), canary.combine((1.0, -value))))
    try:
        evidence = OneSided.of(*pairs, relative=False).evalue(0.0, worse, rho=rho).log_value
    except InsufficientData:
        evidence = 0.0
    return _Evidence(STAND_IN, evidence, method)


def _by_stand_ins(question: Question, strata: Strata, others: Sequence[_Evidence]) -> Compared | None:
    """The answer while there is none of the sequences of means; None unless harm is proven."""
    harm = max(others, key=_weighted, default=None)
    threshold = -math.log(question.worse_level)
    if harm is None or harm.weighted < threshold:
        return None
    control, canary = _rough_means(question, strata)
    return Compared(
        method=harm.method,
        units=_units(strata),
        means=(control, canary),
        relative=False,
        effect=canary - control,
        interval=None,
        worse=question.proof("log e-value", harm.weighted, threshold, of="worse"),
        within=question.proof("log e-value", 0.0, -math.log(question.within_level), of="within"),
        note=f"by {harm.method}",
    )


def _rough_means(question: Question, strata: Strata) -> tuple[float, float]:
    """Of both variants; of a ratio whose denominator is not known to be above 0, the mean numerator."""
    with suppress(InsufficientData):
        return _weighted_means(question, strata)
    control, canary = (
        math.fsum(one.n * one.mean[0] for one in arm if isinstance(one, JointTotals))
        / max(sum(one.n for one in arm), 1)
        for arm in zip(*strata, strict=True)
    )
    return control, canary


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
    periods = _bad_counts(question, strata)
    expected = _expected_ratio(question)
    # One mixture for what breaks a margin, and one for a canary that fails totally.
    tests = ((1 - STAND_IN, expected), (STAND_IN, max(TOTAL_RATIO, expected)))
    harm = max(
        sequential_counts.ratio_evalue(periods, expected_ratio=scale).log_value + math.log(part)
        for part, scale in tests
    )
    relative = question.margin.relative
    control, canary = _weighted_means(question, strata)
    lower = max(_ratio_bound(periods, part * question.worse_level, scale, "greater") for part, scale in tests)
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
        method=f"{_COUNTS}, stratified by epoch",
        units=_units(strata),
        means=(control, canary),
        relative=relative,
        effect=(canary / control - 1 if control else None) if relative else canary - control,
        interval=(_finite(ends[0]), _finite(ends[1])),
        worse=question.proof("log e-value", harm, -math.log(question.worse_level), of="worse"),
        within=within,
        factor=_counts_factor(question, periods, expected),
    )


def _bad_counts(question: Question, strata: Strata) -> list[EventCounts]:
    return [
        EventCounts(_bad(question, control), _bad(question, canary), canary.n / (control.n + canary.n))
        for control, canary in strata
    ]


def _weighted_means(question: Question, strata: Strata) -> tuple[float, float]:
    """Of both variants, epochs weighted alike."""
    weights = [sequences.effective_units(control.n, canary.n) for control, canary in strata]
    control, canary = (
        math.fsum(
            w * unit_moments(question.metric, pair[arm]).mean for w, pair in zip(weights, strata, strict=True)
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
    guess = 0.05 if question.sign > 0 else 0.95
    baseline = question.baseline.mean if question.baseline is not None else guess
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
    """From the order statistics of both variants, each of whose bounds misses with half the level.

    Harm needs one bound of each variant only, so it is found while the others are still infinite; and it
    needs no division, so it is found beside a control at 0.
    """
    assert isinstance(question.metric.measure, QuantileOf)
    q, sign = question.metric.measure.q, question.sign
    control, canary = (_pooled(question, observed, arm) for arm in (observed.control, question.canary))
    if not (isinstance(control, QuantileSketch) and isinstance(canary, QuantileSketch)):
        raise InsufficientData("a variant has no value yet")
    better: Literal["lower", "upper"] = "lower" if sign > 0 else "upper"
    worse: Literal["lower", "upper"] = "upper" if sign > 0 else "lower"

    def bound(sketch: QuantileSketch, side: Literal["lower", "upper"], level: float) -> float:
        return quantile_bound(sketch, q, side, alpha=level / 2, tuned_to=_QUANTILE_UNITS)

    at_least = bound(canary, better, question.worse_level), bound(control, worse, question.worse_level)
    at_most = bound(canary, worse, question.within_level), bound(control, better, question.within_level)
    lower, upper = (_worsening(question, *pair) for pair in (at_least, at_most))
    if lower <= 0 and math.isinf(upper):
        raise InsufficientData(
            f"{control.n:,} and {canary.n:,} values do not yet bound the {q:g}-quantile of both variants"
        )
    means = quantile(control, q), quantile(canary, q)
    relative = question.margin.relative and means[0] != 0
    words = "" if relative == question.margin.relative else ": nothing is relative to a control of 0"
    ends = sorted((sign * lower, sign * upper))
    return Compared(
        method=f"exact sequences of the {q:g}-quantiles{words}",
        units=(control.n, canary.n),
        means=means,
        relative=relative,
        effect=_finite((means[1] - means[0]) / (abs(means[0]) if relative else 1.0)),
        interval=(_finite(ends[0]), _finite(ends[1])),
        worse=question.proof("bound", lower, 0.0, of="worse"),
        within=_quantile_within(question, upper, control=at_most[1]),
        note=words.removeprefix(": "),
    )


def _worsening(question: Question, ours: float, theirs: float) -> float:
    """The worsening from one bound to another, in relation to the control's where that is not 0."""
    found = question.sign * (ours - theirs)
    return found / abs(theirs) if question.margin.relative and theirs and math.isfinite(theirs) else found


def _quantile_within(question: Question, upper: float, *, control: float) -> Proof:
    """Whether the upper bound of the worsening from this bound of the control is within the margin."""
    size = question.margin.size
    if question.margin.relative and not control:
        size = 0.0
    elif question.margin.relative and question.sign * control < 0:
        size = min(size, 1.0)  # the control's quantile may be as near to 0 as it likes
    return question.proof("bound", upper, size, of="within")


# Two named hypotheses


def _sprt(question: Question, observed: Observed, strata: Strata) -> Compared:
    """Wald's test of "worse by just the margin" against "no worse".

    It grows no faster than the margin allows, and without a base to which the margin is relative not at all.
    So the tests of a sequence stand beside it, with a part of both levels.
    """
    try:
        beside = _means(
            msgspec.structs.replace(
                question,
                worse_level=STAND_IN * question.worse_level,
                within_level=STAND_IN * question.within_level,
            ),
            observed,
            strata,
        )
    except InsufficientData:
        beside = None
    try:
        found = _sprt_alone(question, strata)
    except InsufficientData:
        if beside is None:
            raise
        return beside
    if beside is None:
        return found
    if beside.worse.proven and not found.worse.proven:
        note = beside.note or f"by {beside.method}"
        found = msgspec.structs.replace(found, method=beside.method, worse=beside.worse, note=note)
    if beside.within.proven and not found.within.proven:
        found = msgspec.structs.replace(found, within=beside.within)
    return found


def _sprt_alone(question: Question, strata: Strata) -> Compared:
    limits = WaldLimits((1 - STAND_IN) * question.worse_level, (1 - STAND_IN) * question.within_level)
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
        ratios = _ratios_of_means(question, _Contrasts.of(question, _pairs(question, strata)))
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


def _ratios_of_means(question: Question, contrasts: _Contrasts) -> tuple[float, float]:
    """Log likelihood ratios for harm and for safety.

    A fall that is relative is tested for harm by the difference, as in `_harm_of_means`.
    Raises InsufficientData where a relative margin has no positive means.
    """
    worse, within = _claims(question)
    main = contrasts.log if question.margin.relative else contrasts.absolute
    if main is None:
        raise InsufficientData(f"nothing is relative: {contrasts.why}")
    at_margin = main.scaled(question.sign * question.margin.size)
    harm, harm_margin = main, at_margin
    if main.relative and question.sign < 0:
        harm, harm_margin = contrasts.absolute, -question.margin_at(contrasts.absolute.control_mean)
    return harm.log_ratio(0.0, harm_margin, worse), main.log_ratio(0.0, at_margin, within)
