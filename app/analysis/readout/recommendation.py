"""One sentence about what to do, with its reasons. Pure."""

from collections.abc import Sequence

import msgspec

from app.analysis.integrity import Finding
from app.analysis.readout.record import Leader, MetricReadout, Progress, Recommendation, VariantReadout


def recommend(
    treatments: Sequence[str],
    metrics: Sequence[MetricReadout],
    findings: Sequence[Finding],
    progress: Progress,
    leader: Leader | None,
) -> Recommendation:
    """Return the action that follows from the verdicts.

    Harm on a guardrail or primary metric stops a variant, also if the data are otherwise broken:
    failing closed never keeps a harmful variant alive. Broken data decide nothing else. A variant
    is ready to ship if a primary metric is better, none is worse, and every guardrail is safe or
    better. Of several, the leader is shipped.
    """
    deciding = [metric for metric in metrics if metric.role != "secondary"]
    harmful = [arm for arm in treatments if any(_of(metric, arm).verdict == "harm" for metric in deciding)]
    broken = [finding.detail for finding in findings if finding.severity == "broken"]
    if broken:
        reasons = (*broken, *_harms(deciding, harmful))
        stop = f" Stop {' and '.join(harmful)} nevertheless." if harmful else ""
        sentence = f"Decide nothing on these data: {broken[0]}.{stop}"
        return Recommendation(action="fix_data", variant=None, sentence=sentence, reasons=reasons)
    ready = [arm for arm in treatments if arm not in harmful and _ready(metrics, arm)]
    if ready:
        chosen = leader.variant if leader is not None and leader.variant in ready else ready[0]
        shipped = _ship(chosen, deciding, leader)
        return msgspec.structs.replace(shipped, reasons=shipped.reasons + _harms(deciding, harmful))
    if harmful:
        harmless = [arm for arm in treatments if arm not in harmful]
        sentence = f"Stop {' and '.join(harmful)}: {_harms(deciding, harmful)[0]}."
        if not harmless:
            return Recommendation(
                action="keep_control",
                variant=None,
                sentence=f"{sentence} Keep the control.",
                reasons=_harms(deciding, harmful),
            )
        return Recommendation(
            action="stop_variant", variant=harmful[0], sentence=sentence, reasons=_harms(deciding, harmful)
        )
    return _wait(treatments, deciding, progress)


def _of(metric: MetricReadout, arm: str) -> VariantReadout:
    return next(variant for variant in metric.variants if variant.variant == arm)


def _ready(metrics: Sequence[MetricReadout], arm: str) -> bool:
    primary = [_of(metric, arm).verdict for metric in metrics if metric.role == "primary"]
    guards = [_of(metric, arm).verdict for metric in metrics if metric.role == "guardrail"]
    return "better" in primary and all(verdict in ("safe", "better") for verdict in guards)


def _harms(metrics: Sequence[MetricReadout], arms: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{metric.key} of {arm} is worse than the control's: {_effect(metric, arm)}"
        for metric in metrics
        for arm in arms
        if _of(metric, arm).verdict == "harm"
    )


def _effect(metric: MetricReadout, arm: str) -> str:
    """Return the effect with its interval, as in "+3.1 percentage points [1.2, 5]"."""
    variant = _of(metric, arm)
    assert variant.effect is not None, "a verdict has an effect"
    factor, unit = (100, " percentage points") if metric.kind == "proportion" else (1, "")
    effect = f"{factor * variant.effect:+.4g}{unit}"
    if variant.interval is None:
        return effect
    lower, upper = ("no bound" if bound is None else f"{factor * bound:.4g}" for bound in variant.interval)
    return f"{effect} [{lower}, {upper}]"


def _ship(chosen: str, deciding: Sequence[MetricReadout], leader: Leader | None) -> Recommendation:
    reasons = [
        f"{metric.key} is {variant.verdict}: {_effect(metric, chosen)}"
        for metric in deciding
        if (variant := _of(metric, chosen)).verdict in ("safe", "better")
    ]
    if leader is not None and leader.declared and leader.variant == chosen:
        how = f"{chosen} is the best variant"
    else:
        how = f"{chosen} is better than the control"
        if leader is not None and leader.undecided:
            reasons.append(f"not yet better than {', '.join(leader.undecided)}")
    return Recommendation(
        action="ship",
        variant=chosen,
        sentence=f"Ship {chosen}: {how} and no guardrail is broken.",
        reasons=tuple(reasons),
    )


def _wait(treatments: Sequence[str], deciding: Sequence[MetricReadout], progress: Progress) -> Recommendation:
    open_ones = tuple(
        f"{metric.key} of {variant.variant}: {variant.reason or variant.verdict}"
        for metric in deciding
        for variant in metric.variants
        if variant.variant in treatments and variant.verdict != "better"
    )
    if progress.units_to_decide is not None and progress.units >= max(
        progress.units_to_decide, progress.expected_units
    ):
        sentence = "Keep the control: all planned units have come, and no variant is proven to be better."
        return Recommendation(action="keep_control", variant=None, sentence=sentence, reasons=open_ones)
    when = f"{progress.share:.0%} of the expected units have come"
    if progress.days_left is not None:
        when += f", and a decision takes about {progress.days_left:.1f} more days at this traffic"
    return Recommendation(
        action="wait", variant=None, sentence=f"Wait: nothing is decided yet; {when}.", reasons=open_ones
    )
