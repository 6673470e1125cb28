"""Recommend an action in words: what decides, what is missing, and until when. Pure."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from app.analysis.bounds import Bounds
from app.analysis.evidence.effect import EVERY_LOOK
from app.analysis.evidence.planned import closed
from app.analysis.harm.verdict import UNDECIDED
from app.analysis.integrity import Finding
from app.analysis.readout.record import Leader, MetricReadout, Progress, Recommendation, VariantReadout
from app.analysis.readout.words import amount, and_more, bounds, duration, harm, listed, round_count, signed
from app.experiments.plan import AlwaysValid, AnalysisPlan

_PATIENCE: Final = 2.0
"""A plan ends with its expected units, unless this many times the units so far are likely to
decide, at the present shares or with a larger floor."""
_FLOOR_GAIN: Final = 0.5
"""A larger floor is worth a word if it needs at most this part of the missing units."""
_HARMS_MAX: Final = 3


class Loss(NamedTuple):
    """The cost of serving a variant for good: expected, and at most. None: not known."""

    expected: float | None
    bound: float | None


class Situation(NamedTuple):
    """All that a recommendation follows from.

    `treatments` are those still served. `losses` returns the loss of serving a variant.
    """

    plan: AnalysisPlan
    adaptive: bool
    control: str
    treatments: Sequence[str]
    metrics: Sequence[MetricReadout]
    findings: Sequence[Finding]
    progress: Progress
    leader: Leader | None
    losses: Callable[[str], Loss]

    @property
    def primary(self) -> MetricReadout | None:
        """The first primary metric."""
        return next((metric for metric in self.metrics if metric.role == "primary"), None)

    def verdict(self, metric: MetricReadout, arm: str) -> str | None:
        """Return the verdict of a variant on a metric."""
        return _of(metric, arm).verdict


def recommend(now: Situation) -> Recommendation:
    """Return the action that follows from the verdicts.

    Harm on a guardrail or primary metric stops a variant, also if the data are otherwise broken:
    failing closed never keeps a harmful variant alive. Broken data decide nothing else. A variant
    is ready to ship if a primary metric is better, none is worse, and every guardrail is safe or
    better. Of several, the leader is shipped. A plan ends without a winner if no difference that
    matters is left, or if the expected units have come and as many again would not decide.
    """
    deciding = [metric for metric in now.metrics if metric.role != "secondary"]
    harmful = [
        arm for arm in now.treatments if any(_of(metric, arm).verdict == "harm" for metric in deciding)
    ]
    harms = _harms(deciding, harmful)
    broken = [finding.detail for finding in now.findings if finding.severity == "broken"]
    if broken:
        stop = f" Stop {listed(harmful)} nevertheless." if harmful else ""
        sentence = f"Decide nothing on these data: {broken[0]}.{stop}"
        return Recommendation(action="fix_data", variant=None, sentence=sentence, reasons=(*broken, *harms))
    ready = [arm for arm in now.treatments if arm not in harmful and _ready(now.metrics, arm)]
    if ready:
        chosen = now.leader.variant if now.leader is not None and now.leader.variant in ready else ready[0]
        return _ship(now, chosen, harms)
    if harmful and len(harmful) == len(now.treatments):
        return _keep(now, harmful, harms)
    if harmful:
        sentence = f"Stop {listed(harmful)}: {and_more(harms, _HARMS_MAX)}."
        sentence += _side_harms(now, [arm for arm in now.treatments if arm not in harmful])
        return Recommendation(action="stop_variant", variant=harmful[0], sentence=sentence, reasons=harms)
    return _ended(now) or _wait(now)


def _of(metric: MetricReadout, arm: str) -> VariantReadout:
    return next(variant for variant in metric.variants if variant.variant == arm)


def _ready(metrics: Sequence[MetricReadout], arm: str) -> bool:
    primary = [_of(metric, arm).verdict for metric in metrics if metric.role == "primary"]
    guards = [_of(metric, arm).verdict for metric in metrics if metric.role == "guardrail"]
    return "better" in primary and all(verdict in ("safe", "better") for verdict in guards)


def _harms(metrics: Sequence[MetricReadout], arms: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        harm(metric, _of(metric, arm))
        for metric in metrics
        for arm in arms
        if _of(metric, arm).verdict == "harm"
    )


def _side_harms(now: Situation, arms: Sequence[str]) -> str:
    """Return a sentence about proven harm of these variants on metrics that are not primary."""
    harms = _harms([metric for metric in now.metrics if metric.role != "primary"], arms)
    return f" Proven harm: {and_more(harms, _HARMS_MAX)}." if harms else ""


def _holds(metric: MetricReadout) -> str:
    """Return when the interval that decides holds."""
    guarantee = metric.guarantee or ""
    if guarantee.startswith(EVERY_LOOK):
        return "valid at every look and under any drift" if "any drift" in guarantee else EVERY_LOOK
    return (
        "valid at the planned looks" if guarantee.startswith("valid at all") else "valid at one planned look"
    )


def _ship(now: Situation, chosen: str, harms: tuple[str, ...]) -> Recommendation:
    decided = [metric for metric in now.metrics if metric.role != "secondary"]
    better = next(m for m in decided if m.role == "primary" and _of(m, chosen).verdict == "better")
    reasons = [
        f"{metric.key} is {variant.verdict}: {signed(metric, variant)}"
        for metric in decided
        if (variant := _of(metric, chosen)).verdict in ("safe", "better")
    ]
    variant, loss = _of(better, chosen), now.losses(chosen)
    assert variant.effect is not None, "a verdict has an effect"
    by = f"by {amount(better, abs(variant.effect))} {bounds(better, variant.interval)}".rstrip()
    best = now.leader is not None and now.leader.declared and now.leader.variant == chosen
    several = len(now.treatments) > 1
    if best and several:
        claim = f"{chosen} is better than every other variant, and than {now.control} {by}"
    else:
        claim = f"{chosen} is better than {now.control} {by}"
    opening = "The bandit has converged: " if now.adaptive and (best or not several) else f"Ship {chosen}: "
    sentence = f"{opening}{claim} ({_holds(better)})."
    if now.adaptive:
        sentence += " Serve it?"
    if loss.expected is not None:
        sentence += f" If this is wrong, the expected loss is {amount(better, loss.expected, at_most=True)}."
    if now.leader is not None and not best and now.leader.undecided:
        open_rivals = [arm for arm in now.leader.undecided if arm != chosen]
        reasons.append(f"not yet better than {listed(open_rivals)}")
        sentence += f" It is not yet proven better than {listed(open_rivals)}."
    sentence += _side_harms(now, now.treatments)
    return Recommendation(
        action="ship",
        variant=chosen,
        sentence=sentence,
        reasons=(*reasons, *harms),
        expected_loss=loss.expected,
        loss_bound=loss.bound,
    )


def _keep(now: Situation, harmful: Sequence[str], harms: tuple[str, ...]) -> Recommendation:
    """Keep the control, because every treatment is proven worse."""
    primary, loss = now.primary, now.losses(now.control)
    converged = (
        now.adaptive and primary is not None and all(_of(primary, arm).verdict == "harm" for arm in harmful)
    )
    opening = f"The bandit has converged: {now.control} is better than {listed(harmful)}"
    sentence = f"{opening} ({_holds(primary)}). " if converged and primary is not None else ""
    sentence += f"Stop {listed(harmful)}: {and_more(harms, _HARMS_MAX)}. Keep the control."
    return Recommendation(
        action="keep_control",
        variant=now.control if converged else None,
        sentence=sentence,
        reasons=harms,
        expected_loss=loss.expected,
        loss_bound=loss.bound,
    )


def _ended(now: Situation) -> Recommendation | None:
    """Return the end of a plan without a winner; None while it goes on."""
    primary, progress = now.primary, now.progress
    if primary is None or any(_of(primary, arm).verdict == "better" for arm in now.treatments):
        return None
    intervals = [_of(primary, arm).interval for arm in now.treatments]
    greatest = _greatest(intervals)
    open_ones = _open(now)
    if not isinstance(now.plan.estimator, AlwaysValid):
        return _ended_at_a_look(now)
    if greatest is None:
        return None
    minimum = now.plan.minimum_effect
    alike = minimum is not None and greatest <= minimum
    options = [progress.units_to_decide, *(option.units_to_decide for option in progress.at_floors)]
    hopeless = not any(needed and progress.units < needed <= _PATIENCE * progress.units for needed in options)
    if not alike and not (progress.units >= progress.expected_units and hopeless):
        return None
    least = f"no difference from {now.control} is larger than {amount(primary, greatest)}"
    sentence = f"End it: after {progress.units:,} units, {least} ({_holds(primary)})."
    if minimum is not None and alike:
        sentence += f" Only differences from {amount(primary, minimum)} on matter."
    sentence += " Serve the control, or the cheaper variant."
    ahead = None if now.leader is None or now.leader.variant == now.control else now.leader.variant
    if ahead is not None and (loss := now.losses(ahead)).bound is not None:
        sentence += f" {ahead} leads; serving it costs at most {amount(primary, loss.bound)}."
    loss = now.losses(now.control)
    return Recommendation(
        action="keep_control",
        variant=None,
        sentence=sentence + _side_harms(now, now.treatments),
        reasons=open_ones,
        expected_loss=loss.expected,
        loss_bound=loss.bound,
    )


def _ended_at_a_look(now: Situation) -> Recommendation | None:
    """Return the end of a plan with a last look; None before that look."""
    progress = now.progress
    if progress.units < progress.expected_units:
        return None
    if not now.adaptive and closed(now.plan, progress.units):
        sentence = (
            f"The plan ended with its look at {progress.expected_units:,} units. "
            "Its verdict is that of the readout at that look, which the history keeps."
        )
        return Recommendation(action="wait", variant=None, sentence=sentence, reasons=_open(now))
    sentence = "Keep the control: all planned units have come, and no variant is proven to be better."
    return Recommendation(action="keep_control", variant=None, sentence=sentence, reasons=_open(now))


def _greatest(intervals: Sequence[Bounds | None]) -> float | None:
    """Return the greatest difference that no interval excludes; None if one has no bound."""
    ends = [end for interval in intervals for end in (interval or (None,))]
    known = [abs(end) for end in ends if end is not None]
    return max(known) if ends and len(known) == len(ends) else None


def _open(now: Situation) -> tuple[str, ...]:
    return tuple(
        f"{metric.key} of {variant.variant}: {variant.reason or variant.verdict}"
        for metric in now.metrics
        for variant in metric.variants
        if metric.role != "secondary" and variant.variant in now.treatments and variant.verdict != "better"
    )


def _wait(now: Situation) -> Recommendation:
    sentence = f"Wait: {_missing(now)} {_expected(now)}".rstrip() + _side_harms(now, now.treatments)
    loss = Loss(None, None) if now.leader is None else now.losses(now.leader.variant)
    return Recommendation(
        action="wait",
        variant=None,
        sentence=sentence,
        reasons=_open(now),
        expected_loss=loss.expected,
        loss_bound=loss.bound,
    )


def _missing(now: Situation) -> str:
    """Say what a decision lacks, and which number decides."""
    primary = now.primary
    if primary is None or not now.treatments or not now.progress.units:
        return _nothing(now)
    better = [arm for arm in now.treatments if _of(primary, arm).verdict == "better"]
    if better:
        guards = [
            metric.key
            for metric in now.metrics
            if metric.role == "guardrail" and _of(metric, better[0]).verdict not in ("safe", "better")
        ]
        lead = f"{primary.key} of {better[0]} is better by {signed(primary, _of(primary, better[0]))}"
        return f"{lead}, but {listed(guards)} {'is' if len(guards) == 1 else 'are'} not yet proven safe."
    rival = max((_of(primary, arm) for arm in now.treatments), key=partial(_towards, primary))
    if rival.effect is None or rival.interval is None:
        return f"nothing is decided yet: {rival.reason or 'there are too few units'}."
    ahead = [rival.variant, now.control]
    if _towards(primary, rival) < 0:
        ahead.reverse()
    lead = f"{ahead[0]} leads {ahead[1]} by {amount(primary, abs(rival.effect))}"
    if not rival.effect:
        lead = f"{rival.variant} and {now.control} have the same {primary.key} so far"
    if rival.reason and rival.reason != UNDECIDED:
        return f"{lead}, but {rival.reason}."
    interval = bounds(primary, rival.interval)
    return f"{lead}, but the interval that decides, {interval} ({_holds(primary)}), contains 0."


def _nothing(now: Situation) -> str:
    """Say why nothing can be compared."""
    if not now.treatments:
        return "only one variant is still served, so there is nothing to compare."
    if now.primary is None:
        return "no metric is primary, so none decides."
    return "no unit has come yet."


def _towards(metric: MetricReadout, variant: VariantReadout) -> float:
    """Return the effect, turned so that more is better; least of all if it is unknown."""
    if variant.effect is None:
        return -float("inf")
    return variant.effect if metric.direction == "higher" else -variant.effect


def _expected(now: Situation) -> str:
    """Say when a decision can be expected, and what a larger floor would buy."""
    progress = now.progress
    needed, units = progress.units_to_decide, progress.units
    if not isinstance(now.plan.estimator, AlwaysValid):
        missing = max(progress.expected_units - units, 0)
        return f"The plan ends after {missing:,} more units{_in_days(progress.days_left)}." if missing else ""
    if not units:
        return ""
    left = None if needed is None else needed - units
    words = _left_words(now, left, progress.days_left)
    for option in progress.at_floors:
        fewer = option.units_to_decide - units
        if left is None or fewer <= _FLOOR_GAIN * left:
            needs = f"would need about {round_count(fewer)}{_in_days(option.days_left)}"
            return f"{words} An exploration floor of {option.floor:.0%} {needs}."
    return words


def _left_words(now: Situation, left: int | None, days: float | None) -> str:
    shares = " at the present shares" if now.adaptive else ""
    if left is None and now.progress.at_floors:
        return "The present shares never decide this."
    if left is None:
        return f"Nothing says yet how many more units decide{shares}." if now.leader is not None else ""
    if left <= 0:
        return ""
    return f"A decision is expected after about {round_count(left)} more units{shares}{_in_days(days)}."


def _in_days(days: float | None) -> str:
    return "" if days is None else f" ({duration(days)} at this traffic)"
