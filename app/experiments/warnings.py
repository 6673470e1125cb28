"""Warnings about definitions that are valid and probably not meant. Pure. They never block."""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from app.experiments.catalogue import known_names
from app.experiments.metrics import ASSIGNMENTS, Mean, Metric, Proportion, QuantileOf, Ratio
from app.experiments.model import Definition
from app.experiments.plan import AlwaysValid
from app.experiments.policies import FixedPolicy
from app.experiments.signals import nearest, signals_of, signals_of_metrics

ASSIGNMENTS_MIN: Final = 100
"""Number of assignments after which a signal that never came is a warning."""
RARE_ASSIGNMENTS_MIN: Final = 1_000
"""The same for a signal that may well be rare, such as an error."""


class SeenSignal(msgspec.Struct, frozen=True):
    """Counts and delay of a signal in the newest experiments.

    `seen` counts it in all of them, `here` in this experiment. `delay_s` is the 0.9-quantile of the
    time from the assignment to the signal in the experiment `source`; null: not known.
    """

    signal: str
    seen: int
    here: int
    delay_s: float | None = None
    source: str = ""


class ReceivedSignals(msgspec.Struct, frozen=True):
    """Signals that experiments have received, by name.

    `anything`: some experiment has received a signal; before, nothing can be said of names.
    `assignments` are those of the experiment itself whose outcome is known.
    """

    signals: dict[str, SeenSignal] = {}
    anything: bool = False
    assignments: int = 0


def warnings_of(definition: Definition) -> list[str]:
    """Return the warnings about a definition."""
    return [
        *_spelling(definition),
        *_bandit(definition),
        *_ratios(definition),
        *_unread(definition),
        *_silent(definition),
        *_units(definition),
    ]


def warnings_from_log(definition: Definition, received: ReceivedSignals) -> list[str]:
    """Return the warnings that follow from what experiments have received."""
    signals = received.signals
    came = {name: signal.here for name, signal in signals.items()}
    is_new = received.anything and not received.assignments
    return [
        *never_sent(definition, came, received.assignments),
        *(_unknown_names(definition, signals) if is_new else ()),
        *_short_horizon(definition, signals),
    ]


def never_sent(definition: Definition, signals: Mapping[str, int], assignments: int) -> Iterator[str]:
    """Yield the signals that are read and have not come. `signals` counts what came, by name.

    `assignments` are those whose outcome is known.
    """
    rare = _rare(definition, signals)
    for name in signals_of(definition.reward, definition.metrics):
        enough = RARE_ASSIGNMENTS_MIN if name in rare else ASSIGNMENTS_MIN
        if assignments >= enough and not signals.get(name):
            yield f"no client has sent the signal {name!r} about {assignments:,} assignments"


def _rare(definition: Definition, signals: Mapping[str, int]) -> set[str]:
    """Return the names that may well be rare: others of the reward came, or silence has a value."""
    rare = {
        metric.measure.signal
        for metric in definition.metrics
        if isinstance(metric.measure, Proportion | Mean) and metric.measure.silence is not None
    }
    if any(signals.get(name) for name in definition.reward.signals):
        rare |= set(definition.reward.signals)
    return rare


def _unknown_names(definition: Definition, seen: Mapping[str, SeenSignal]) -> Iterator[str]:
    """Yield names that no experiment has received, if they are not common names either."""
    known = known_names(definition.signals)
    for name in signals_of(definition.reward, definition.metrics):
        if name not in known and (name not in seen or not seen[name].seen):
            yield f"no experiment has received the signal {name!r} so far: check that a client sends it"


def _short_horizon(definition: Definition, seen: Mapping[str, SeenSignal]) -> Iterator[str]:
    horizon_s = definition.reward.horizon_s
    for name in signals_of(definition.reward, definition.metrics):
        signal = seen.get(name)
        if signal is not None and signal.delay_s is not None and signal.delay_s > horizon_s:
            yield (
                f"reward.horizon_s: {horizon_s:g} s is shorter than the delay of {name!r}: in"
                f" {signal.source}, one in ten came later than {signal.delay_s:,.0f} s;"
                " late signals do not count"
            )


def _spelling(definition: Definition) -> list[str]:
    """Return a warning for each signal that looks like a misspelled name of the catalogue.

    A name that the definition declares, or that looks like no known name, is as good as any other.
    """
    known = known_names(definition.signals)
    warnings = []
    for name in signals_of(definition.reward, definition.metrics):
        near = None if name in known else nearest(name, known)
        if near is not None:
            warnings.append(
                f"the signal {name!r} is not in the catalogue; did you mean {near!r}?"
                " If the name is right, declare it in `signals`"
            )
    return warnings


def _bandit(definition: Definition) -> Iterator[str]:
    """Yield what a policy that reacts to outcomes does not go together with."""
    if isinstance(definition.policy, FixedPolicy):
        return
    kind = definition.policy.kind
    for index, metric in enumerate(definition.metrics):
        match metric.measure:
            case Mean(cap=cap) if None in cap:
                yield (
                    f"metrics[{index}].measure.cap: {metric.key!r} is an unbounded mean:"
                    f" under {kind} it can't be analysed exactly without `cap`; set both bounds"
                )
            case QuantileOf():
                yield (
                    f"metrics[{index}]: {metric.key!r} is a quantile, not compared under {kind}:"
                    " the status shows it as a raw figure only"
                )
    if definition.plan.segments is not None:
        yield f"plan.segments: segments are not compared under {kind}; the status shows raw figures"
    if definition.plan.covariates:
        yield f"plan.covariates: covariates do not adjust comparisons under {kind}"
    if not isinstance(definition.plan.estimator, AlwaysValid):
        yield f"plan.estimator: does not apply under {kind}: comparisons are valid at every look"
    primary = [metric.key for metric in definition.metrics if metric.role == "primary"]
    if primary:
        yield (
            f"the plan decides by {', '.join(primary)}, but {kind} allocates by the reward:"
            " make sure that both want the same"
        )


def _ratios(definition: Definition) -> Iterator[str]:
    """Yield ratios whose numerator nothing else knows, and ratios that are always 1."""
    known = {*known_names(definition.signals), *definition.reward.signals}
    for index, metric in enumerate(definition.metrics):
        if not isinstance(metric.measure, Ratio):
            continue
        field, measure = f"metrics[{index}].measure", metric.measure
        numerator = measure.numerator
        others = signals_of_metrics(other for other in definition.metrics if other is not metric)
        if numerator == measure.denominator:
            yield f"{field}: {metric.key!r} divides {numerator!r} by itself: it is always 1"
        elif numerator == ASSIGNMENTS:
            yield (
                f"{field}.numerator: {ASSIGNMENTS!r} counts assignments only as the denominator;"
                " here it is the name of a signal"
            )
        elif numerator not in known and numerator not in others:
            yield (
                f"{field}.numerator: only {metric.key!r} reads {numerator!r}: while no client sends"
                " it, the ratio is 0 for every unit once its horizon has passed"
            )


def _unread(definition: Definition) -> Iterator[str]:
    """Yield signals of the reward that no metric observes, if there are metrics."""
    if not definition.metrics:
        return
    observed = signals_of_metrics(definition.metrics)
    names = [name for name in definition.reward.signals if name not in observed]
    if names and len(definition.reward.signals) > 1:
        yield (
            f"no metric observes {', '.join(repr(name) for name in names)} of the reward:"
            " if the reward moves, the status cannot show which signal moved it"
        )


def _silent(definition: Definition) -> Iterator[str]:
    """Yield guardrails that see only those units that say something."""
    for index, metric in enumerate(definition.metrics):
        if metric.role == "guardrail" and _ignores_silence(metric):
            yield (
                f"metrics[{index}].measure.silence: the guardrail {metric.key!r} reads only units"
                " with the signal: a variant whose failures send nothing looks safe; set `silence`"
            )


def _ignores_silence(metric: Metric) -> bool:
    return isinstance(metric.measure, Proportion) and metric.measure.silence is None


def _units(definition: Definition) -> Iterator[str]:
    if definition.unit != "request" and definition.stickiness == "none":
        yield (
            f"stickiness: {definition.unit!r} is the unit, but each request is drawn again:"
            ' a returning unit changes its variant; `"stickiness": "unit"` keeps it'
        )
    payloads = [
        msgspec.json.encode(variant.payload, order="deterministic") for variant in definition.variants
    ]
    served = any(variant.payload for variant in definition.variants) and not definition.plan.aa
    if served and len(set(payloads)) < len(payloads):
        yield "variants: two of them have the same payload"
