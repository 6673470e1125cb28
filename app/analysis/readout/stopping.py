"""Stop `best_arm` once the intervals of the readout show its leader to be the best. Pure.

The evidence comes from logged propensities, so no drift common to all variants makes a winner.
"""

import math
from typing import Final

from msgspec.structs import replace
from scipy import optimize

from app.analysis.evidence.comparison import compare
from app.analysis.evidence.effect import Evidence
from app.analysis.observed import Observed
from app.analysis.readout.leader import UNANSWERED, active, leading
from app.experiments.plan import AlwaysValid, AnalysisPlan
from app.experiments.policies.best_arm import BestArmPolicy
from app.ledger.units.measures import REWARD_METRIC
from bandits.identification import Decision, Undecided, Winner

_LOG_EVIDENCE_MAX: Final = 300.0
"""Evidence is shown up to here: levels below exp(-300) are not distinguished."""
_LOG_LEVEL_MIN: Final = math.log(2)


def stopping(policy: BestArmPolicy, plan: AnalysisPlan, observed: Observed) -> Decision | None:
    """Return whether the best variant is known; its position is that among `observed.variants`.

    A variant wins if the interval of its difference from every other served variant, which misses
    with probability delta / (K - 1), is above -indifference. `log_evidence` is log(1 / level) at
    the smallest level at which the weakest of these intervals is. None: fewer than two variants are
    served, or no reward has come.
    """
    served = active(observed, observed.variants)
    plan = replace(plan, estimator=AlwaysValid())
    best = leading(REWARD_METRIC, plan, observed) if len(served) > 1 else None
    if best is None:
        return None
    threshold = math.log((len(served) - 1) / policy.delta)
    weakest = _LOG_EVIDENCE_MAX
    for other in served:
        if other != best:
            try:
                evidence = compare(REWARD_METRIC, plan, observed, best, control=other).evidence
                weakest = min(weakest, log_evidence(evidence, above=-policy.indifference))
            except UNANSWERED:
                weakest = 0.0
    position = observed.variants.index(best)
    if weakest < threshold:
        return Undecided(position, weakest, threshold)
    units = (observed.totals(REWARD_METRIC.key, arm) for arm in served)
    return Winner(position, float(sum(totals.n for totals in units if totals)), weakest, threshold)


def log_evidence(evidence: Evidence, *, above: float) -> float:
    """Return log(1 / level) at the smallest level whose interval is above this difference.

    It is 0 if that level is more than 1/2, and at most 300.
    """

    def surplus(log_inverse: float) -> float:
        return evidence.interval(math.exp(-log_inverse)).lower - above

    if surplus(_LOG_LEVEL_MIN) <= 0:
        return 0.0
    if surplus(_LOG_EVIDENCE_MAX) > 0:
        return _LOG_EVIDENCE_MAX
    return float(optimize.brentq(surplus, _LOG_LEVEL_MIN, _LOG_EVIDENCE_MAX, xtol=1e-9))
