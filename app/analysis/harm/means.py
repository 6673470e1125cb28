"""Harm and safety of a mean, a ratio or a proportion, from one-sided sequences of means. Pure.

Other tests of the same harm stand next to the sequences, and decide where these cannot, or are
slow.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from app.analysis.harm.constants import SPREAD_MARGINS, constants, is_constant
from app.analysis.harm.counts import METHOD as COUNTS
from app.analysis.harm.counts import SPREAD_MAX, STAND_IN, TOTAL_RATIO, bad_counts
from app.analysis.harm.question import Answer, Proof, Question
from app.analysis.harm.waiting import factor_to_answer
from app.analysis.observed import Observed
from app.analysis.strata import MeanPairs, Pairs, comparable_means
from app.experiments.metrics import Proportion, Ratio
from app.ledger.units.metric_totals import moments_of
from stats import mixture, sequences, sequential_counts
from stats.errors import InsufficientData
from stats.one_sided import OneSided
from stats.totals import JointTotals, MeanTotals

_SEQUENCES: Final = "one-sided sequences of means on"
_BASE_ERRORS_MIN: Final = 3.0
_NUMERATORS: Final = (
    "one-sided sequence of numerators less what the control's ratio expects, stratified by epoch"
)


class HarmTest(NamedTuple):
    """The evidence of one test against "no worse": a log e-value, which holds at `part` of the level.

    `bound` is the least worsening at that part of the level, in the metric's own unit; None if unknown.
    """

    part: float
    log_value: float
    method: str
    bound: float | None = None

    @property
    def weighted(self) -> float:
        """Log e-value, comparable with the threshold of the whole level."""
        return self.log_value + math.log(self.part)


class Contrasts(NamedTuple):
    """A comparison of means on both scales; `log` is None, for the reason `why`, unless both are positive."""

    pairs: MeanPairs
    absolute: OneSided
    log: OneSided | None
    why: str

    @classmethod
    def of(cls, question: Question, pairs: MeanPairs) -> "Contrasts":
        """Return the comparison. Raises InsufficientData before the burn-in, or without any spread."""
        bounds = question.metric.bounds or (-math.inf, math.inf)
        absolute = OneSided.of(*pairs, relative=False, bounds=bounds)
        if is_constant(question, pairs):
            raise InsufficientData("the values of a variant do not differ, so nothing says how sure they are")
        control, treatment = absolute.control_mean, absolute.treatment_mean
        if question.margin.relative and min(control, treatment) > 0:
            return cls(pairs, absolute, OneSided.of(*pairs, relative=True, bounds=bounds), "")
        name, mean = ("control's", control) if control <= 0 else ("canary's", treatment)
        return cls(pairs, absolute, None, f"the {name} mean of {mean:g} has no logarithm")

    @property
    def scale(self) -> float:
        """The size of the control's mean, which a relative effect is a share of."""
        return abs(self.absolute.control_mean)

    @property
    def has_base(self) -> bool:
        """Whether the control's mean is more than 3 standard errors away from 0."""
        n = sum(control.n for control, _ in self.pairs)
        error = math.sqrt(math.fsum(control.m2 for control, _ in self.pairs)) / n
        return self.scale > _BASE_ERRORS_MIN * error


def means(question: Question, observed: Observed, pairs: Pairs) -> Answer:
    """Return the answer by sequences of means and the tests that stand in.

    Raises InsufficientData before the burn-in, unless a test that stands in proves harm.
    """
    units = sum(control.n for control, _ in pairs), sum(treatment.n for _, treatment in pairs)
    stand_ins = _stand_ins(question, pairs)
    try:
        moments = moment_pairs(question, pairs)
        if _has_burned_in(moments) and is_constant(question, moments):
            return constants(question, observed, moments, safety_rho(question), units)
        contrasts = Contrasts.of(question, moments)
    except InsufficientData:
        if (answer := _by_stand_ins(question, pairs, stand_ins, units)) is None:
            raise
        return answer
    main = contrasts.log or contrasts.absolute
    by_sequences = _harm_tests(question, contrasts, taken=len(stand_ins))
    harm = max((*by_sequences, *stand_ins), key=lambda test: test.weighted)
    worse = question.proof("worse", harm.weighted)
    within, upper = _within(question, contrasts)
    relative = question.margin.relative and contrasts.has_base
    base = contrasts.scale if relative else 1.0
    lower = max(test.bound for test in by_sequences if test.bound is not None)
    at_margin = question.margin_at(contrasts.absolute.control_mean)
    if main.relative:
        at_margin = abs(main.scaled(question.sign * min(question.margin.size, 1e300)))
    usual = "a log scale" if contrasts.log is not None else "the metric's scale"
    return question.answer(
        method=harm.method if worse.proven else f"{_SEQUENCES} {usual}, stratified by epoch",
        units=units,
        means=(contrasts.absolute.control_mean, contrasts.absolute.treatment_mean),
        relative=relative,
        worsening=(lower / base, upper / base),
        worse=worse,
        within=within,
        factor=factor_to_answer(
            question,
            question.sign * main.effect,
            at_margin,
            variance=(main.variance(question.worse_claim), main.variance(question.within_claim)),
            time=main.time,
            rhos=(harm_rho(question), safety_rho(question)),
        ),
        note=_note(question, contrasts, harm if worse.proven else None),
    )


def moment_pairs(question: Question, pairs: Pairs) -> MeanPairs:
    """Return one number per unit in every epoch in which both variants have one.

    Raises InsufficientData if there is no such epoch.
    """
    moments = []
    for control, treatment in pairs:
        # An epoch may be too small for a ratio; others may not be.
        with suppress(InsufficientData):
            moments.append((moments_of(question.metric, control), moments_of(question.metric, treatment)))
    if not moments:
        raise InsufficientData("the denominators are not far enough from 0 for a ratio of both variants")
    return _with_one_rate(moments) if isinstance(question.metric.measure, Proportion) else moments


def _has_burned_in(pairs: MeanPairs) -> bool:
    return all(sum(pair[arm].n for pair in pairs) >= sequences.ARM_UNITS_MIN for arm in (0, 1))


def _with_one_rate(pairs: MeanPairs) -> MeanPairs:
    """Return proportions whose spread in the treatment is that of its rate over all epochs.

    By concavity that is at least the spread within epochs. Then one more bad outcome never raises
    the variance by more than it raises the effect.
    """
    n = sum(treatment.n for _, treatment in pairs)
    rate = math.fsum(treatment.n * treatment.mean for _, treatment in pairs) / n
    unit = max(rate * (1 - rate), 0.0)
    return [
        (control, MeanTotals(treatment.n, treatment.mean, treatment.n * unit)) for control, treatment in pairs
    ]


def harm_rho(question: Question) -> float:
    """Return the mixture of the proof of harm, which is strongest where harm should be found.

    It uses half the units that detect a worsening by the margin. That is a worsening by 1.4
    margins: what breaks a guardrail rarely breaks it by exactly its margin, and at exactly the
    margin this costs nothing (simulated).
    """
    return _rho(question, question.worse_level, part=0.5)


def safety_rho(question: Question) -> float:
    """Return the mixture of the proof of safety, strongest for a worsening by the margin."""
    return _rho(question, question.within_level, part=1.0)


def _rho(question: Question, level: float, *, part: float) -> float:
    baseline, size = question.baseline, question.margin.size
    if question.margin.relative:
        distance = abs(math.log1p(question.sign * min(size, 0.99)))
        sd = baseline.sd / baseline.mean if baseline is not None and baseline.mean > 0 else 1.0
    else:
        distance = size
        sd = baseline.sd if baseline is not None else SPREAD_MARGINS * size
    spread = min(max(sd / distance, 1 / SPREAD_MAX), SPREAD_MAX)
    units = sequences.units_to_tell(1.0, spread, alpha=level, alternative="greater")
    return mixture.tuned(max(part * units, 1.0), alpha=level, alternative="greater")


def _harm_tests(question: Question, contrasts: Contrasts, *, taken: int) -> list[HarmTest]:
    """Return the tests by sequences of means. `taken` other tests have a part of the level each.

    A rise is tested on a log scale if the margin is relative, a fall always by the difference. The
    head of `stats.one_sided` says on which scale evidence grows with every further harm. A rise
    that has no logarithm is tested by the difference, with a part of the level that is always
    reserved for it.
    """
    part = 1 - STAND_IN * taken
    tests = [(contrasts.absolute, part, "the metric's scale")]
    if question.margin.relative and question.sign > 0:
        tests = [(contrasts.absolute, STAND_IN, "the metric's scale")]
        if contrasts.log is not None:
            tests.insert(0, (contrasts.log, part - STAND_IN, "a log scale"))
    rho, by_sequences = harm_rho(question), []
    for contrast, own_part, scale in tests:
        value = contrast.evalue(0.0, question.worse_claim, rho=rho).log_value
        level = own_part * question.worse_level
        bound = contrast.unscaled(contrast.bound(question.worse_claim, alpha=level, rho=rho))
        bound *= contrasts.scale if contrast.relative else 1.0
        method = f"{_SEQUENCES} {scale}, stratified by epoch"
        by_sequences.append(HarmTest(own_part, value, method, question.sign * bound))
    return by_sequences


def _within(question: Question, contrasts: Contrasts) -> tuple[Proof, float]:
    """Return the proof of being within the margin, and the upper bound of the worsening in the metric's unit.

    An absolute margin is tested by the difference of means, a relative one on a log scale. Without a
    logarithm the treatment's mean is compared with the worst that the margin allows, at a part of the level
    that is reserved for it.
    """
    claim, rho = question.within_claim, safety_rho(question)
    size = question.sign * question.margin.size
    contrast, part = contrasts.absolute, 1.0
    if not question.margin.relative:
        evidence = contrast.evalue(size, claim, rho=rho)
    elif contrasts.log is not None:
        contrast, part = contrasts.log, 1 - STAND_IN
        evidence = contrast.evalue(contrast.scaled(size), claim, rho=rho)
    else:
        part = STAND_IN
        evidence = _allowed(question, contrasts).evalue(0.0, claim, rho=rho)
    bound = contrast.bound(claim, alpha=part * question.within_level, rho=rho)
    upper = question.sign * contrast.unscaled(bound) * (contrasts.scale if contrast.relative else 1.0)
    return question.proof("within", evidence.log_value + math.log(part)), upper


def _allowed(question: Question, contrasts: Contrasts) -> OneSided:
    """Return the comparison of the treatment with the worst that the margin allows of the control."""
    control_mean = contrasts.absolute.control_mean
    factor = 1 + question.sign * question.margin.size * math.copysign(1.0, control_mean)
    scaled = [
        (MeanTotals(control.n, factor * control.mean, factor**2 * control.m2), treatment)
        for control, treatment in contrasts.pairs
    ]
    return OneSided.of(*scaled, relative=False)


def _note(question: Question, contrasts: Contrasts, harm: HarmTest | None) -> str:
    """Say why another test than the usual one answers; empty if the usual one does."""
    notes = []
    if question.margin.relative and contrasts.log is None:
        notes.append(f"{contrasts.why}, so the difference of means is tested")
    if question.margin.relative and not contrasts.has_base:
        notes.append("the control may be 0, so effects are differences")
    if question.margin.relative and not contrasts.scale and harm is None:
        notes.append("a margin relative to a control of 0 allows nothing, an absolute margin would")
    if harm is not None and not harm.method.startswith(_SEQUENCES):
        notes.append(f"by {harm.method}")
    return "; ".join(notes)


# Tests that stand in


def _stand_ins(question: Question, pairs: Pairs) -> list[HarmTest]:
    """Return the tests of the same harm that a kind of metric always has next to its sequence of means.

    Each has `STAND_IN` of the level. A proportion has counts of bad outcomes, exact from the first unit on. A
    ratio has the treatment's numerator less what its denominator makes at the control's ratio. That is also
    defined where the treatment's denominator is 0, and its ratio is not.
    """
    if isinstance(question.metric.measure, Proportion):
        periods = bad_counts(question, pairs)
        evidence = sequential_counts.ratio_evalue(periods, expected_ratio=TOTAL_RATIO)
        return [HarmTest(STAND_IN, evidence.log_value, COUNTS)]
    if isinstance(question.metric.measure, Ratio):
        return [HarmTest(STAND_IN, _numerators(question, pairs), _NUMERATORS)]
    return []


def _numerators(question: Question, pairs: Pairs) -> float:
    """Return the log e-value of the numerators; 0 if they cannot be compared."""
    moments = []
    for control, treatment in pairs:
        with suppress(InsufficientData):
            assert isinstance(control, JointTotals)
            assert isinstance(treatment, JointTotals)
            weights = (1.0, -moments_of(question.metric, control).mean)
            moments.append((control.select(0, 1).combine(weights), treatment.select(0, 1).combine(weights)))
    try:
        contrast = OneSided.of(*moments, relative=False)
    except InsufficientData:
        return 0.0
    return contrast.evalue(0.0, question.worse_claim, rho=harm_rho(question)).log_value


def _by_stand_ins(
    question: Question, pairs: Pairs, tests: Sequence[HarmTest], units: tuple[int, int]
) -> Answer | None:
    """Return the answer while sequences of means have none; None unless harm is proven."""
    harm = max(tests, key=lambda test: test.weighted, default=None)
    if harm is None or not (worse := question.proof("worse", harm.weighted)).proven:
        return None
    return question.answer(
        method=harm.method,
        units=units,
        means=_rough_means(question, pairs),
        relative=False,
        worse=worse,
        within=question.proof("within", 0.0),
        note=f"by {harm.method}",
    )


def _rough_means(question: Question, pairs: Pairs) -> tuple[float, float]:
    """Return the means; of a ratio whose denominator may be 0, the mean numerators."""
    with suppress(InsufficientData):
        return comparable_means(
            [(moments_of(question.metric, c), moments_of(question.metric, t)) for c, t in pairs]
        )
    control, treatment = (
        math.fsum(totals.n * totals.mean[0] for totals in arm if isinstance(totals, JointTotals))
        / max(sum(totals.n for totals in arm), 1)
        for arm in zip(*pairs, strict=True)
    )
    return control, treatment
