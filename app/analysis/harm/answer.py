"""The one home of comparisons that prove harm or safety: the readout and rollouts both ask `answer`. Pure.

| metric | evidence that it is worse | evidence that it is worse by less than the margin |
|---|---|---|
| proportion, the bad outcome rare | counts of bad outcomes, exact | relative: the same; else exact bounds |
| mean, ratio, other proportion | one-sided sequence of means | the same |
| values without any spread | counts of worse values, exact | an assumed spread of three margins |
| quantile | exact sequences of both variants, in epochs with the same shares | the same |
| proportion or mean, `sprt` | Wald's limits on the ratio of "worse by the margin" to "no worse" | the same |

All proofs hold at every look. They need constant shares within each epoch. Nothing is adjusted for
covariates: slopes that are fitted to a canary depend on how bad it is, so more harm could be found later.
"""

import msgspec

from app.analysis.harm.counts import counts, counts_failures
from app.analysis.harm.means import means
from app.analysis.harm.quantiles import quantiles
from app.analysis.harm.question import Answer, Question
from app.analysis.harm.sprt import sprt
from app.analysis.observed import Observed
from app.analysis.strata import Pairs, pairs_of
from app.experiments.metrics import Proportion, QuantileOf
from stats.errors import InsufficientData


def answer(question: Question, observed: Observed) -> Answer:
    """Return the answer that these totals allow. Raises InsufficientData with the reason if there is none."""
    if isinstance(question.metric.measure, QuantileOf):
        return quantiles(question, observed)
    arms = observed.control, question.treatment
    pairs = pairs_of(observed, question.metric.key, arms, epochs=question.epochs)
    if not pairs:
        raise InsufficientData("no epoch has a unit with a value in both variants")
    if question.test == "sprt":
        return sprt(question, observed, pairs)
    if isinstance(question.metric.measure, Proportion) and counts_failures(question):
        counted = counts(question, observed, pairs)
        if _is_whole(question):
            return counted
        return _with_safety_of_means(question, counted, observed, pairs)
    return means(question, observed, pairs)


def _is_whole(question: Question) -> bool:
    """Return whether counts prove safety too: by their ratio, or by bounds of epochs with the same shares."""
    return bool(question.pooled) or (question.margin.relative and question.sign > 0)


def _with_safety_of_means(question: Question, counted: Answer, observed: Observed, pairs: Pairs) -> Answer:
    """Prove safety by sequences of means, which are stratified by epoch; before their burn-in by nothing."""
    try:
        by_means = means(question, observed, pairs)
    except InsufficientData:
        return counted
    interval = counted.interval
    if interval is not None and by_means.interval is not None and by_means.relative == counted.relative:
        lower, upper = interval
        interval = (lower, by_means.interval[1]) if question.sign > 0 else (by_means.interval[0], upper)
    return msgspec.structs.replace(counted, within=by_means.within, interval=interval)
