"""The check of covariates: they must have the same mean in all variants. Pure.

A covariate is known before the exposure, so no variant can change it. If one differs all the same,
effects are not adjusted for any of them, because adjusting would remove a part of the effect.
"""

from collections.abc import Sequence
from typing import Final

from app.analysis.integrity import Finding
from app.analysis.observed import Observed
from app.experiments.metrics import Metric, QuantileOf
from app.experiments.plan import AnalysisPlan, FixedHorizon
from stats import balance
from stats.errors import InsufficientData
from stats.stratification import Stratum, stratified_difference
from stats.totals import JointTotals, MeanTotals

BALANCE_ALPHA: Final = 0.01
"""Error level of all covariates and variants together (Bonferroni), over all looks or at the horizon."""

Strata = Sequence[tuple[MeanTotals, MeanTotals]]


def adjustable(plan: AnalysisPlan, observed: Observed) -> bool:
    """Return whether effects may be adjusted: no covariate is known to differ between variants."""
    return not any(finding.severity == "broken" for finding in balance_findings(plan, observed))


def balance_findings(plan: AnalysisPlan, observed: Observed) -> tuple[Finding, ...]:
    """Return a finding per covariate that differs, else one for all; none without covariates.

    There is no check if allocation reacts to outcomes: then shares move within an epoch, and the
    means of covariates with them.
    """
    fixed = isinstance(plan.estimator, FixedHorizon)
    key = "balance", fixed
    if key not in observed.memo:
        observed.memo[key] = _findings(observed, fixed=fixed)
    checked: tuple[Finding, ...] = observed.memo[key]
    return checked


def unused_findings(metrics: Sequence[Metric], observed: Observed) -> tuple[Finding, ...]:
    """Return which metrics are not adjusted although there are covariates, and why."""
    if observed.adaptive and (observed.covariates or observed.constant_covariates):
        detail = "not used: effects are not adjusted if allocation reacts to outcomes"
        return (Finding(kind="covariates", severity="note", detail=detail),)
    details = []
    if observed.constant_covariates:
        names = ", ".join(observed.constant_covariates)
        details.append(f"{names} not used: the same for every unit")
    if observed.covariates:
        quantiles = [metric.key for metric in metrics if isinstance(metric.measure, QuantileOf)]
        others = [
            metric.key
            for metric in metrics
            if not isinstance(metric.measure, QuantileOf) and not _has_covariates(metric, observed)
        ]
        reasons = (quantiles, "quantiles have no adjustment"), (others, "none are kept with it")
        details += [f"not used for {', '.join(keys)}: {reason}" for keys, reason in reasons if keys]
    return tuple(Finding(kind="covariates", severity="note", detail=detail) for detail in details)


def _has_covariates(metric: Metric, observed: Observed) -> bool:
    outcomes = 2 if metric.kind == "ratio" else 1
    return any(
        isinstance(totals := cell.metrics.get(metric.key), JointTotals) and totals.dimension > outcomes
        for cell in observed.cells
    )


def _findings(observed: Observed, *, fixed: bool) -> tuple[Finding, ...]:
    if not observed.covariates or observed.adaptive:
        return ()
    comparisons = len(observed.covariates) * len(observed.treatments)
    differing, n_checked = [], 0
    for position, name in enumerate(observed.covariates):
        worst: Finding | None = None
        for variant in observed.treatments:
            strata = _strata(observed, variant, position)
            try:
                p_value = _p_value(strata, fixed=fixed)
            except InsufficientData:
                continue
            n_checked += 1
            if p_value <= BALANCE_ALPHA / comparisons and (worst is None or p_value < (worst.p_value or 0.0)):
                worst = _differs(name, variant, observed.control, strata, p_value)
        if worst is not None:
            differing.append(worst)
    if differing:
        return tuple(differing)
    names = ", ".join(observed.covariates)
    if not n_checked:
        detail = f"too few units to check whether {names} had the same mean in all variants"
        return (Finding(kind="covariate_balance", severity="unknown", detail=detail),)
    detail = f"all variants had the same mean of {names} before the exposure"
    return (Finding(kind="covariate_balance", severity="fine", detail=detail),)


def _strata(observed: Observed, variant: str, position: int) -> Strata:
    pairs = [
        (observed.covariate_totals(observed.control, epoch), observed.covariate_totals(variant, epoch))
        for epoch in observed.epochs
    ]
    return [(c.value(position), t.value(position)) for c, t in pairs if c is not None and t is not None]


def _p_value(strata: Strata, *, fixed: bool) -> float:
    """Return the p-value of equal means. Raises InsufficientData if there are too few units."""
    try:
        anytime = balance.balance_evalue(strata).p_value
    except InsufficientData:
        if not fixed:
            raise
        anytime = 1.0
    if not fixed:
        return anytime
    try:
        welch = stratified_difference([Stratum(t, c) for c, t in strata], weighting="mantel-haenszel")
    except InsufficientData:
        return anytime
    return min(welch.effect.test().p_value, anytime)


def _differs(name: str, variant: str, control: str, strata: Strata, p_value: float) -> Finding:
    n, m2 = (sum(getattr(arm, field) for pair in strata for arm in pair) for field in ("n", "m2"))
    c, t = (sum((pair[arm] for pair in strata), MeanTotals()).mean for arm in (0, 1))
    sd = (m2 / max(n - 2, 1)) ** 0.5
    apart = f"{c:.4g} in {control} and {t:.4g} in {variant}" + (
        f", {abs(t - c) / sd:.2g} sd apart" if sd else ""
    )
    return Finding(
        kind="covariate_balance",
        severity="broken",
        detail=f"the covariate {name} differs ({apart}, p = {p_value:.2g}), so effects are not adjusted: it "
        "was measured after the exposure, or units were not assigned at random",
        p_value=p_value,
        variant=variant,
        size=abs(t - c) / sd if sd else None,
    )
