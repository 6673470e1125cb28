"""Forecast a decision, at the present shares and with a larger exploration floor. Pure.

The effect and its spread are taken as they are now, so a forecast is a guess that new data correct.
A sequence decides once its radius is below the effect. Its time grows by p_c p_t / (p_c + p_t) with
each unit, p being the present shares of control and treatment.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
from scipy import optimize

from app.analysis.evidence.effect import ConcurrentEventEvidence, Evidence, SequenceEvidence
from app.analysis.observed import Observed
from app.analysis.readout.record import FloorProgress, Progress
from app.experiments.plan import AlwaysValid, AnalysisPlan
from stats import concurrent, sequences
from stats.concurrent import ARM_UNITS_MIN, EVENTS_MIN
from stats.errors import InsufficientData
from stats.sequences import Contrast

FLOORS: Final = (0.1, 0.2, 0.5)
"""Exploration floors whose forecast is given, if they are above the present one."""
_UNITS_FAR: Final = 1e12
_LOG_FAR: Final = math.log(_UNITS_FAR)


class Serving(msgspec.Struct, frozen=True):
    """The present `shares` of the variants that are not retired, and the exploration floor in them.

    `floor` is None if no floor applies. Shares of contextual policies depend on the request, so
    they are not known here.
    """

    shares: Mapping[str, float]
    floor: float | None = None

    def with_floor(self, floor: float) -> "Serving":
        """Return the shares that the same policy would serve with another floor.

        Worked by hand: 0.9 and 0.1 at floor 0.2 are 1 and 0 without it, and 0.75 and 0.25 at 0.5.
        """
        assert self.floor is not None, "a floor replaces a floor"
        even = 1 / len(self.shares)
        chosen = {variant: max(share - self.floor * even, 0.0) for variant, share in self.shares.items()}
        total = sum(chosen.values()) or 1.0
        mixed = {variant: (1 - floor) * part / total + floor * even for variant, part in chosen.items()}
        return Serving(mixed, floor)


class Pair(NamedTuple):
    """A comparison that has to be decided, and the distance that its interval has to show."""

    arms: tuple[str, str]
    evidence: Evidence
    distance: float
    decided: bool


class Question(NamedTuple):
    """The comparisons of one metric that a decision needs, each at this level.

    `complete`: whether all of them are among the pairs; a variant without a value has none.
    """

    metric: str
    pairs: Sequence[Pair]
    level: float
    complete: bool


def progress_of(
    plan: AnalysisPlan, observed: Observed, question: Question | None, serving: Serving | None = None
) -> Progress:
    """Return the progress towards the decision, at the present shares if they are known."""
    units = observed.units()
    needed: float | None = None
    at_floors: list[FloorProgress] = []
    if not isinstance(plan.estimator, AlwaysValid):
        needed = max(plan.expected_units, units)
    elif question is not None and question.complete and question.pairs:
        needed = _needed(question, observed, serving)
        if needed != units and serving is not None and serving.floor is not None:
            for floor in FLOORS:
                if floor > serving.floor:
                    total = _needed(question, observed, serving.with_floor(floor))
                    if total is not None:
                        at_floors.append(FloorProgress(floor, math.ceil(total), _days(total, observed)))
    return Progress(
        units=units,
        expected_units=plan.expected_units,
        share=units / plan.expected_units,
        units_to_decide=_whole(needed),
        days_left=_days(needed, observed),
        at_floors=tuple(at_floors),
    )


def _whole(units: float | None) -> int | None:
    return None if units is None else math.ceil(units)


def _days(needed: float | None, observed: Observed) -> float | None:
    """Return the days that the missing units take at the traffic so far; None without traffic."""
    units = observed.units()
    if needed is None or not observed.days or not units:
        return None
    return max(needed - units, 0.0) / (units / observed.days)


def _needed(question: Question, observed: Observed, serving: Serving | None) -> float | None:
    """Return the units of all variants at which every pair is decided; None if one may never be."""
    totals = [_units_to_decide(question, pair, observed, serving) for pair in question.pairs]
    known = [total for total in totals if total is not None]
    return max(known) if len(known) == len(totals) else None


def _units_to_decide(
    question: Question, pair: Pair, observed: Observed, serving: Serving | None
) -> float | None:
    units, contrast = observed.units(), _contrast(pair.evidence)
    if pair.decided:
        return float(units)
    if contrast is None or not pair.distance or not units:
        return None
    time = _time_to_decide(pair, contrast, question.level)
    if time is None:
        return None
    if serving is None:
        return _possible(units * time / contrast.time)
    shares = [serving.shares.get(arm, 0.0) for arm in pair.arms]
    if min(shares) <= 0:
        return None
    missing = (time - contrast.time) * sum(shares) / math.prod(shares)
    if isinstance(pair.evidence, ConcurrentEventEvidence):
        known = [
            sum(getattr(arms, side).n for arms in pair.evidence.arms) for side in ("control", "treatment")
        ]
        least = ((ARM_UNITS_MIN - n) / share for n, share in zip(known, shares, strict=True))
        missing = max(missing, *least)
    # Some units have no value, because they wait for it or stayed silent.
    with_value = sum(
        totals.n for arm in observed.variants if (totals := observed.totals(question.metric, arm)) is not None
    )
    return _possible(units + max(missing, 0.0) * units / max(with_value, 1))


def _time_to_decide(pair: Pair, contrast: Contrast, level: float) -> float | None:
    """Return the effective units that bring the radius below the distance; None: beyond reach."""
    assert isinstance(pair.evidence, SequenceEvidence | ConcurrentEventEvidence)
    tuned_to = pair.evidence.tuning.at(level, "two-sided")
    variance = (contrast.control_variance + contrast.treatment_variance) * contrast.time

    def excess(log_factor: float) -> float:
        time = contrast.time * math.exp(log_factor)
        return float(sequences.radius(variance / time, time, alpha=level, tuned_to=tuned_to)) - pair.distance

    if excess(_LOG_FAR) > 0:
        return None
    log_factor = 0.0 if excess(0.0) <= 0 else float(optimize.brentq(excess, 0.0, _LOG_FAR, xtol=1e-6))
    time = contrast.time * math.exp(log_factor)
    if isinstance(pair.evidence, ConcurrentEventEvidence):
        return max(time, EVENTS_MIN / variance)
    return time


def _possible(units: float) -> float | None:
    return units if units <= _UNITS_FAR else None


def _contrast(evidence: Evidence) -> Contrast | None:
    """Return means and variances, also of so few units that they are not yet evidence."""
    if isinstance(evidence, SequenceEvidence):
        return evidence.contrast
    if isinstance(evidence, ConcurrentEventEvidence):
        try:
            return concurrent.contrast(evidence.arms, arm_units_min=1)
        except InsufficientData:
            return None
    return None
