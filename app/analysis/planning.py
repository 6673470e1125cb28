"""Before an experiment: how many units, how long, and what could be seen. Pure."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Final, Literal, NoReturn, assert_never

import msgspec

from app.core.errors import FieldError, InvalidInput
from stats import mixture, planning
from stats.errors import InvalidInput as Meaningless
from stats.estimate import Alternative
from stats.group_sequential import Exits, GroupSequentialPlan, Spending, crossings
from stats.yeast import Yeast

# Of any scale that occurs; beyond it numbers overflow before they mean something.
Number = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
Positive = Annotated[float, msgspec.Meta(ge=1e-9, le=1e9)]
Error = Annotated[float, msgspec.Meta(ge=1e-9, le=0.5)]
Power = Annotated[float, msgspec.Meta(ge=1e-3, le=1 - 1e-6)]
SomeShare = Annotated[float, msgspec.Meta(ge=1e-6, le=1)]
Design = Literal["fixed", "group_sequential", "yeast", "always_valid"]

ARMS_MAX: Final = 20
_LOOKS_FINE: Final = 60
"""Looks that stand for continuous monitoring when its power is computed; more would add less than 0.01."""
_CURVE_POINTS: Final = 41


class PowerQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is planned; the same names in a query, a body and as options.

    * Of a `proportion`: `baseline`. Of a `mean`: `sd` (and `baseline`, for relative effects). Of a `ratio`:
    `numerator_mean`, `denominator_mean`, `numerator_sd`, `denominator_sd`, `correlation`, per unit.
    * With `effect` (absolute; of the baseline if `relative`) the answer is the units; with `units` what
    could be detected; with both the power.
    * `margin` (absolute) asks for non-inferiority: the effect is then the true one, usually 0.
    * `allocation`: shares, control first; or `arms` equal ones.
    * `design`: one look at the end; `looks` planned ones; continuous monitoring to a known horizon (YEAST);
    always-valid intervals.
    * Traffic: `units_per_day` new units, of which `exposure_share` enter; `weeks_max` is the patience.
    """

    kind: Literal["proportion", "mean", "ratio"] = "proportion"
    baseline: Number | None = None
    sd: Positive | None = None
    numerator_mean: Number | None = None
    denominator_mean: Positive | None = None
    numerator_sd: Positive | None = None
    denominator_sd: Positive | None = None
    correlation: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    effect: Number | None = None
    relative: bool = False
    units: Annotated[int, msgspec.Meta(ge=1, le=10**15)] | None = None
    alpha: Error = 0.05
    power: Power = 0.8
    margin: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    arms: Annotated[int, msgspec.Meta(ge=2, le=ARMS_MAX)] = 2
    allocation: tuple[SomeShare, ...] | None = None
    variance_reduction: Annotated[float, msgspec.Meta(ge=0, le=0.999)] = 0.0
    design: Design = "fixed"
    looks: Annotated[int, msgspec.Meta(ge=1, le=20)] = 5
    spending: Spending = "obrien-fleming"
    units_per_day: Positive | None = None
    exposure_share: SomeShare = 1.0
    weeks_max: Annotated[int, msgspec.Meta(ge=1, le=520)] = 8


class Duration(msgspec.Struct, frozen=True, kw_only=True):
    """Whole weeks, so that every weekday counts alike. `advice` is what to do when it takes too long."""

    feasible: bool
    weeks: int
    days: int
    detectable_in_time: float | None
    advice: tuple[str, ...]


class PowerPoint(msgspec.Struct, frozen=True):
    """The power with this many units."""

    units: int
    power: float


class DetectablePoint(msgspec.Struct, frozen=True):
    """The smallest effect that is found within these days; null if none would be."""

    days: int
    effect: float | None


class PowerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The plan in numbers and one sentence.

    `units` are the most that may be needed, `per_variant` in the order of the allocation; `inflation` is how
    many times those of the fixed design; `expected_units` how many it takes on average if the effect is as
    planned. `power_curve` and `detectable_by_day` are for drawing.
    """

    sentence: str
    effect: float | None
    power: float
    units: int
    per_variant: tuple[int, ...]
    inflation: float
    expected_units: int
    duration: Duration | None
    power_curve: tuple[PowerPoint, ...]
    detectable_by_day: tuple[DetectablePoint, ...]


_WORDS: Final = ("kind", "relative", "design", "spending")


def question_of(given: Mapping[str, object]) -> PowerQuestion:
    """The question whose fields are texts, as in a query or options; numbers are taken as they are.

    Raises InvalidInput naming the field that is unknown, no number, or beyond its bounds.
    """
    fields: dict[str, object] = {}
    for name, value in given.items():
        if name not in PowerQuestion.__struct_fields__:
            raise InvalidInput(f"{name}: unknown field", errors=(FieldError(name, "unknown field"),))
        if name == "allocation" and isinstance(value, str):
            fields[name] = [_number(share, name) for share in value.split(",")]
        else:
            fields[name] = _number(value, name) if isinstance(value, str) and name not in _WORDS else value
    try:
        return msgspec.convert(fields, PowerQuestion, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise InvalidInput(reason, field=path.rstrip("`").partition("[")[0] or "query") from error


def _number(text: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput(f"{field} must be a number, got {text!r}", field=field)
    return value


def answer(question: PowerQuestion) -> PowerAnswer:
    """Work it out. Raises InvalidInput naming the field."""
    if question.effect is None and question.units is None:
        raise InvalidInput("give effect, units, or both", field="effect")
    plan, used = _plan(question)
    try:
        return _answer(question, plan, used)
    except Meaningless as error:
        _refuse(error, question)


def _answer(question: PowerQuestion, plan: planning.Plan, used: float) -> PowerAnswer:
    effect, power = _effect(question), plan.power
    if effect is None:
        assert question.units is not None
        effect = planning.minimum_detectable_effect(plan, question.units)
    elif question.units is not None:
        power = planning.power(plan, effect, question.units)
    if question.units is None:
        sample = planning.sample_size(plan, effect)
        units, per_variant = sample.total, sample.per_variant
    else:
        units = question.units
        per_variant = tuple(round(units * share) for share in plan.allocation)
    duration = None
    if question.units_per_day is not None and question.units is None:
        duration = _duration(question, plan, effect)
    return PowerAnswer(
        sentence=_sentence(question, effect, units, power, duration),
        effect=effect,
        power=power,
        units=units,
        per_variant=per_variant,
        inflation=plan.inflation,
        expected_units=math.ceil(units * used),
        duration=duration,
        power_curve=_power_curve(plan, effect, units),
        detectable_by_day=_detectable(question, plan),
    )


def _plan(question: PowerQuestion) -> tuple[planning.Plan, float]:
    """The plan, and the share of its units that are used on average if the effect is as planned."""
    shares = question.allocation or (1 / question.arms,) * question.arms
    if len(shares) > ARMS_MAX:
        raise InvalidInput(f"allocation has at most {ARMS_MAX} shares, got {len(shares)}", field="allocation")
    if not question.power > question.alpha:
        raise InvalidInput(f"power must be above alpha, got {question.power:g}", field="power")
    side: Alternative = "greater" if question.margin else "two-sided"
    level = question.alpha / max(len(shares) - 1, 1)
    inflation, used = _sequential(
        question.design, level, question.power, side, question.looks, question.spending
    )
    try:
        plan = planning.Plan(
            _outcome(question),
            question.alpha,
            question.power,
            shares,
            margin=question.margin,
            inflation=inflation,
            variance_reduction=question.variance_reduction,
        )
    except Meaningless as error:
        _refuse(error, question)
    return plan, used


def _outcome(question: PowerQuestion) -> planning.Outcome:
    match question.kind:
        case "proportion":
            baseline = _needed(question.baseline, "baseline", question)
            if not 1e-9 <= baseline <= 1 - 1e-9:
                raise InvalidInput(f"baseline must be in (0, 1), got {baseline:g}", field="baseline")
            return planning.ProportionOutcome(baseline)
        case "mean":
            return planning.MeanOutcome(_needed(question.sd, "sd", question))
        case "ratio":
            names = ("numerator_mean", "denominator_mean", "numerator_sd", "denominator_sd", "correlation")
            return planning.RatioOutcome(
                *(_needed(getattr(question, name), name, question) for name in names)
            )
        case _:
            assert_never(question.kind)


def _needed(value: float | None, field: str, question: PowerQuestion) -> float:
    if value is None:
        raise InvalidInput(f"{field} is needed for a {question.kind}", field=field)
    return value


def _effect(question: PowerQuestion) -> float | None:
    if question.effect is None or not question.relative:
        return question.effect
    baseline = question.baseline
    if question.kind == "ratio" and question.numerator_mean is not None and question.denominator_mean:
        baseline = question.numerator_mean / question.denominator_mean
    if not baseline:
        raise InvalidInput("a relative effect needs a baseline that is not 0", field="baseline")
    return question.effect * baseline


def _refuse(error: Meaningless, question: PowerQuestion) -> NoReturn:
    """As an answer that names the field the statistic complains about."""
    reason = str(error)
    known = (name for name in question.__struct_fields__ if reason.startswith(f"{name} must"))
    named = next(known, None)
    field = named or (
        "allocation" if "share" in reason else "units" if "units do not" in reason else "effect"
    )
    raise InvalidInput(reason, field=field) from error


@lru_cache(maxsize=256)
def _sequential(  # noqa: PLR0917 - a key of the cache
    design: Design, alpha: float, power: float, side: Alternative, looks: int, spending: Spending
) -> tuple[float, float]:
    """Greatest units over those of the fixed design, and the mean share of them that is used.

    Of designs without planned looks from the probability of crossing their boundary at many looks.
    """
    fixed = GroupSequentialPlan(alpha, alternative=side).drift_for([1.0], power=power)
    fine = [(k + 1) / _LOOKS_FINE for k in range(_LOOKS_FINE)]
    match design:
        case "fixed":
            return 1.0, 1.0
        case "group_sequential":
            plan = GroupSequentialPlan(alpha, spending, side)
            fractions = [(k + 1) / looks for k in range(looks)]
            drift = plan.drift_for(fractions, power=power)
            return (drift / fixed) ** 2, plan.expected_fraction(fractions, drift=drift)
        case "yeast":
            yeast = Yeast(alpha, side)
            drift = yeast.drift_for(power)
            bounds = [yeast.boundary / math.sqrt(t) for t in fine]
            return (drift / fixed) ** 2, _expected_share(
                fine, crossings(fine, bounds, drift=drift, alternative=side)
            )
        case "always_valid":
            rho = mixture.tuned(1.0, alpha=alpha, alternative=side)
            limits = mixture.boundary(fine, alpha=alpha, rho=rho, alternative=side)
            bounds = [float(limit) / math.sqrt(t) for limit, t in zip(limits, fine, strict=True)]
            drift = _drift_for(fine, bounds, power, side)
            return (drift / fixed) ** 2, _expected_share(
                fine, crossings(fine, bounds, drift=drift, alternative=side)
            )
        case _:
            assert_never(design)


def _drift_for(fractions: list[float], bounds: list[float], power: float, side: Alternative) -> float:
    """The drift whose crossing probability is `power`, by bisection to 1e-4."""
    low, high = 0.0, 20.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        found = crossings(fractions, bounds, drift=middle, alternative=side)
        low, high = (middle, high) if math.fsum(found.lower + found.upper) < power else (low, middle)
    return high


def _expected_share(fractions: list[float], exits: Exits) -> float:
    leaving = [low + high for low, high in zip(exits.lower, exits.upper, strict=True)]
    stopped = math.fsum(t * p for t, p in zip(fractions, leaving, strict=True))
    return stopped + max(1 - math.fsum(leaving), 0.0)


def _duration(question: PowerQuestion, plan: planning.Plan, effect: float) -> Duration:
    assert question.units_per_day is not None
    found = planning.duration(
        plan,
        effect,
        units_per_day=question.units_per_day,
        exposure_share=question.exposure_share,
        weeks_max=question.weeks_max,
    )
    match found:
        case planning.Feasible(weeks=weeks, days=days):
            return Duration(feasible=True, weeks=weeks, days=days, detectable_in_time=None, advice=())
        case planning.TrafficTooLow(weeks=weeks, detectable=detectable, advice=advice):
            return Duration(
                feasible=False, weeks=weeks, days=7 * weeks, detectable_in_time=detectable, advice=advice
            )
        case _:
            assert_never(found)


def _power_curve(plan: planning.Plan, effect: float, units: int) -> tuple[PowerPoint, ...]:
    steps = range(1, _CURVE_POINTS)
    chosen = sorted(
        {max(round(2 * units * step / (_CURVE_POINTS - 1)), len(plan.allocation)) for step in steps}
    )
    return tuple(PowerPoint(n, planning.power(plan, effect, n)) for n in chosen)


def _detectable(question: PowerQuestion, plan: planning.Plan) -> tuple[DetectablePoint, ...]:
    if question.units_per_day is None:
        return ()
    points = []
    for week in range(1, min(question.weeks_max, 52) + 1):
        try:
            found = planning.minimum_detectable_effect(
                plan, 7 * week * question.units_per_day * question.exposure_share
            )
        except Meaningless:
            found = None
        points.append(DetectablePoint(7 * week, found))
    return tuple(points)


def _sentence(
    question: PowerQuestion, effect: float, units: int, power: float, duration: Duration | None
) -> str:
    what = "shown not to be inferior" if question.margin else "found"
    text = f"A true effect of {effect:+.4g} is {what} with probability {power:.0%} in {units:,} units"
    if duration is None:
        return f"{text}."
    if duration.feasible:
        weeks = "1 week" if duration.weeks == 1 else f"{duration.weeks} weeks"
        return f"{text}, which take {weeks}."
    patience = f"more than the {question.weeks_max} allowed: traffic is too low"
    return f"{text}, which take {duration.weeks:,} weeks, {patience}."
