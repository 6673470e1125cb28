"""Checks of the data, to read before any effect. Pure."""

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
"""Error level of the sequential test, over all looks."""
ABSENCE_ALPHA: Final = 0.001
"""Error level of the test for a variant that has a share but no units, over all looks."""
AA_ALPHA: Final = 0.01
"""Error level of all primary comparisons of an A/A test together, over all looks."""
CROSSOVER_SHARE_MAX: Final = 0.01
"""Above this share of units in several variants, leaving them out matters."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One check. *broken*: only harm may be decided. *unknown*: the check was not possible.

    `variant` is empty if the finding is about all variants. `size` is the greatest relative
    deviation of `sample_ratio`, the assignments of `zero_weight`, the share of units of
    `crossovers`. It is the difference of `covariate_balance` in standard deviations, the seconds of
    `stale_totals` and the effect of `aa`.
    """

    kind: Kind
    severity: Severity
    detail: str
    p_value: float | None = None
    variant: str = ""
    size: float | None = None


def findings(observed: Observed) -> tuple[Finding, ...]:
    """Return all checks, also those that the data do not allow."""
    return (*_sample_ratio(observed), *_crossovers(observed), *_staleness(observed))


def causes(checked: Sequence[Finding]) -> tuple[Cause, ...]:
    """Return the findings that must freeze learning. Stale totals pass by themselves: no event is lost."""
    return tuple(
        Cause(
            kind=finding.kind,
            variant=finding.variant,
            size=finding.size or 0.0,
            detail=finding.detail,
            passing=finding.kind == "stale_totals",
        )
        for finding in checked
        if finding.severity == "broken"
    )


def _sample_ratio(observed: Observed) -> tuple[Finding, ...]:
    """Compare assignments with their logged probabilities, also if these moved."""
    periods = observed.assignments
    if not periods or not sum(sum(period.counts) for period in periods):
        detail = "no assignment with a logged probability: the split cannot be checked"
        return (Finding(kind="sample_ratio", severity="unknown", detail=detail),)
    checked = []
    leaks = dict(zip(observed.variants, zero_weight_leaks(periods), strict=True))
    for variant, count in leaks.items():
        if count:
            detail = f"{count:,} assignments to {variant} while its probability was 0"
            checked.append(
                Finding(kind="zero_weight", severity="broken", detail=detail, variant=variant, size=count)
            )
    try:
        off = dict(zip(observed.variants, deviations(periods), strict=True))
    except InsufficientData:  # All assignments are leaks.
        return tuple(checked)
    evidence = evalue(periods)
    absent = dict(zip(observed.variants, absence_p_values(periods), strict=True))
    without = min(absent, key=lambda variant: absent[variant])
    p_absent = absent[without] * len(absent)
    worst = without if absent[without] < 1 else max(off, key=lambda variant: abs(off[variant]))
    broken = evidence.rejects(SAMPLE_RATIO_ALPHA) or p_absent <= ABSENCE_ALPHA
    severity: Severity = "broken" if broken else "fine"
    detail = (
        f"the split follows the logged probabilities; the largest deviation is {worst}, {off[worst]:+.2%}"
    )
    if broken and off[worst] == -1:
        expected = _expected(periods, observed.variants.index(worst))
        detail = f"{worst} got no units; its logged probabilities give {expected:,.0f}"
    elif broken:
        how = "more" if off[worst] > 0 else "fewer"
        detail = f"{worst} has {abs(off[worst]):.2%} {how} units than its logged probabilities give"
    checked.append(
        Finding(
            kind="sample_ratio",
            severity=severity,
            detail=detail,
            p_value=min(evidence.p_value, p_absent) if p_absent <= ABSENCE_ALPHA else evidence.p_value,
            size=abs(off[worst]),
        )
    )
    return tuple(checked)


def _expected(periods: Sequence[ArmCounts], arm: int) -> float:
    """Return how many assignments to this arm the logged probabilities give."""
    return sum(sum(period.counts) * period.probabilities[arm] for period in periods)


def _crossovers(observed: Observed) -> tuple[Finding, ...]:
    if not observed.crossovers:
        return ()
    # Where shares move, units move with them: then any number of crossovers is expected.
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
