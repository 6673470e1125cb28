"""Whether the data can be trusted at all: read this before any effect. Pure."""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from app.allocation.freezes import Cause
from app.analysis.limits import TOTALS_STALE_S
from app.analysis.observed import Observed
from stats.errors import InsufficientData
from stats.srm import ArmCounts, absence_p_values, deviations, evalue, zero_weight_leaks

Kind = Literal[
    "sample_ratio", "zero_weight", "crossovers", "covariate_balance", "covariates", "stale_totals", "aa"
]
Severity = Literal["fine", "note", "broken", "unknown"]

SAMPLE_RATIO_ALPHA: Final = 0.01
"""Of the sequential test; it may be looked at all the time."""
ABSENCE_ALPHA: Final = 0.001
"""Error level, over all looks, of the test for a variant that has a share but no units."""
AA_ALPHA: Final = 0.01
"""Of all primary comparisons of an A/A test together, over all looks."""
CROSSOVER_SHARE_MAX: Final = 0.01
"""More units than this in two variants, and leaving them out is no longer a detail."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check. *broken*: nothing may be decided but to stop harm. *unknown*: it could not be made.

    `variant`: of which one, empty where it is about all. `size`: how bad it is, if that has a measure: of
    `sample_ratio` the greatest relative deviation, of `zero_weight` assignments, of `crossovers` the share of
    units, of `covariate_balance` the difference in standard deviations, of `stale_totals` seconds, of `aa`
    the effect.
    """

    kind: Kind
    severity: Severity
    detail: str
    p_value: float | None = None
    variant: str = ""
    size: float | None = None


def findings(observed: Observed) -> tuple[Finding, ...]:
    """All checks that the data allow, and which they do not."""
    return (*_sample_ratio(observed), *_crossovers(observed), *_staleness(observed))


def causes(found: Sequence[Finding]) -> tuple[Cause, ...]:
    """Of the findings, what has to freeze learning. What is stale passes: nothing is lost on the way."""
    return tuple(
        Cause(
            kind=one.kind,
            variant=one.variant,
            size=one.size or 0.0,
            detail=one.detail,
            passing=one.kind == "stale_totals",
        )
        for one in found
        if one.severity == "broken"
    )


def _sample_ratio(observed: Observed) -> tuple[Finding, ...]:
    """Assignments against the probabilities that were logged for them, however these moved."""
    periods = observed.assignments
    if not periods or not sum(sum(period.counts) for period in periods):
        detail = "no assignment with a logged probability: the split cannot be checked"
        return (Finding(kind="sample_ratio", severity="unknown", detail=detail),)
    found = []
    leaks = dict(zip(observed.variants, zero_weight_leaks(periods), strict=True))
    for variant, count in leaks.items():
        if count:
            detail = f"{count:,} assignments to {variant} while its probability was 0"
            found.append(
                Finding(kind="zero_weight", severity="broken", detail=detail, variant=variant, size=count)
            )
    try:
        off = dict(zip(observed.variants, deviations(periods), strict=True))
    except InsufficientData:  # All of them are such leaks.
        return tuple(found)
    evidence = evalue(periods)
    absent = dict(zip(observed.variants, absence_p_values(periods), strict=True))
    without = min(absent, key=lambda variant: absent[variant])
    p_absent = absent[without] * len(absent)
    worst = without if absent[without] < 1 else max(off, key=lambda variant: abs(off[variant]))
    broken = evidence.rejects(SAMPLE_RATIO_ALPHA) or p_absent <= ABSENCE_ALPHA
    severity: Severity = "broken" if broken else "fine"
    detail = f"the split follows the logged probabilities; farthest is {worst} by {off[worst]:+.2%}"
    if broken and off[worst] == -1:
        expected = _expected(periods, observed.variants.index(worst))
        detail = f"{worst} got no units; its logged probabilities give {expected:,.0f}"
    elif broken:
        how = "more" if off[worst] > 0 else "fewer"
        detail = f"{worst} has {abs(off[worst]):.2%} {how} units than its logged probabilities give"
    found.append(
        Finding(
            kind="sample_ratio",
            severity=severity,
            detail=detail,
            p_value=min(evidence.p_value, p_absent) if p_absent <= ABSENCE_ALPHA else evidence.p_value,
            size=abs(off[worst]),
        )
    )
    return tuple(found)


def _expected(periods: Sequence[ArmCounts], arm: int) -> float:
    """How many assignments to this arm the logged probabilities give."""
    return sum(sum(period.counts) * period.probabilities[arm] for period in periods)


def _crossovers(observed: Observed) -> tuple[Finding, ...]:
    if not observed.crossovers:
        return ()
    """Where shares move, units move with them: then crossovers are no fault, however many."""
    counted = observed.crossovers_counted
    share = observed.crossovers / (observed.units() + (0 if counted else observed.crossovers))
    broken = share > CROSSOVER_SHARE_MAX and not observed.adaptive
    severity: Severity = "broken" if broken else "note"
    treated = "count for their first" if counted else "are left out"
    detail = f"{observed.crossovers:,} units ({share:.2%}) were in several variants and {treated}"
    return (Finding(kind="crossovers", severity=severity, detail=detail, size=share),)


def _staleness(observed: Observed) -> tuple[Finding, ...]:
    age_s = observed.totals_age_s
    if age_s is None or age_s <= TOTALS_STALE_S:
        return ()
    detail = f"events of the last {age_s:,.0f} seconds may be missing from the totals"
    return (Finding(kind="stale_totals", severity="broken", detail=detail, size=age_s),)
