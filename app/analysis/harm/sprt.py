"""Harm and safety by Wald's test of "worse by exactly the margin" against "no worse". Pure."""

import math
from typing import Final

import msgspec

from app.analysis.harm.counts import STAND_IN
from app.analysis.harm.means import Contrasts, means, moment_pairs
from app.analysis.harm.question import Answer, Question
from app.analysis.observed import Observed
from app.analysis.strata import Pairs, comparable_means, counts_of
from app.experiments.metrics import Proportion
from app.ledger.units.metric_totals import moments_of
from stats.errors import InsufficientData
from stats.sprt import WaldLimits, profile_log_ratio


def sprt(question: Question, observed: Observed, pairs: Pairs) -> Answer:
    """Return the answer of Wald's test, and of a sequence at a part of both levels where that answers first.

    The evidence of Wald's test grows no faster than the margin allows, and not at all if the margin is
    relative and has no base.
    """
    shared = msgspec.structs.replace(
        question,
        worse_level=STAND_IN * question.worse_level,
        within_level=STAND_IN * question.within_level,
    )
    try:
        sequence = means(shared, observed, pairs)
    except InsufficientData:
        return _wald(question, pairs)
    try:
        wald = _wald(question, pairs)
    except InsufficientData:
        return sequence
    if sequence.worse.proven and not wald.worse.proven:
        note = sequence.note or f"by {sequence.method}"
        wald = msgspec.structs.replace(wald, method=sequence.method, worse=sequence.worse, note=note)
    if sequence.within.proven and not wald.within.proven:
        wald = msgspec.structs.replace(wald, within=sequence.within)
    return wald


def _wald(question: Question, pairs: Pairs) -> Answer:
    """Return the answer of Wald's test alone. Raises InsufficientData if a relative margin has no base."""
    limits = WaldLimits((1 - STAND_IN) * question.worse_level, (1 - STAND_IN) * question.within_level)
    if isinstance(question.metric.measure, Proportion) and not question.margin.relative:
        method = "SPRT on the profile likelihood of two proportions, stratified by epoch"
        effect = question.sign * question.margin.size
        counts = [(counts_of(control), counts_of(treatment)) for control, treatment in pairs]
        ratio = math.fsum(
            float(profile_log_ratio(c.n, c.successes, t.n, t.successes, effect=effect)) for c, t in counts
        )
        harm, safety = ratio, ratio
    else:
        method = "SPRT on means, stratified by epoch"
        harm, safety = _log_ratios(question, Contrasts.of(question, moment_pairs(question, pairs)))
    scale: Final = "log likelihood ratio"
    return question.answer(
        method=method,
        units=(sum(control.n for control, _ in pairs), sum(treatment.n for _, treatment in pairs)),
        means=comparable_means(
            [(moments_of(question.metric, c), moments_of(question.metric, t)) for c, t in pairs]
        ),
        worse=question.proof("worse", harm, scale=scale, threshold=limits.upper),
        within=question.proof("within", -safety, scale=scale, threshold=-limits.lower),
    )


def _log_ratios(question: Question, contrasts: Contrasts) -> tuple[float, float]:
    """Return the log likelihood ratios for harm and for safety.

    A relative fall is tested for harm by the difference, as in `means`. Raises InsufficientData if
    a relative margin has no positive means.
    """
    main = contrasts.log if question.margin.relative else contrasts.absolute
    if main is None:
        raise InsufficientData(f"nothing is relative: {contrasts.why}")
    at_margin = main.scaled(question.sign * question.margin.size)
    harm, harm_margin = main, at_margin
    if main.relative and question.sign < 0:
        harm, harm_margin = contrasts.absolute, -question.margin_at(contrasts.absolute.control_mean)
    return (
        harm.log_ratio(0.0, harm_margin, question.worse_claim),
        main.log_ratio(0.0, at_margin, question.within_claim),
    )
