"""Power calculator: how many units, how long, and which effects can be detected. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Final, Literal, NoReturn, assert_never

import msgspec

from app.core.errors import FieldError, InvalidInput
from app.planning.designs import Design, SequentialDesign
from stats import planning
from stats.errors import InvalidInput as Meaningless
from stats.estimate import Alternative
from stats.group_sequential import Spending, spending_of

# Of any scale that occurs; beyond it numbers overflow before they mean something.
Number = Annotated[float, msgspec.Meta(ge=-1e9, le=1e9)]
Positive = Annotated[float, msgspec.Meta(ge=1e-9, le=1e9)]
Error = Annotated[float, msgspec.Meta(ge=1e-9, le=0.5)]
Power = Annotated[float, msgspec.Meta(ge=1e-3, le=1 - 1e-6)]
SomeShare = Annotated[float, msgspec.Meta(ge=1e-6, le=1)]
ARMS_MAX: Final = 20
_OF_KIND: Final = {
    "baseline": ("proportion", "mean"),
    "sd": ("mean",),
    "numerator_mean": ("ratio",),
    "denominator_mean": ("ratio",),
    "numerator_sd": ("ratio",),
    "denominator_sd": ("ratio",),
    "correlation": ("ratio",),
}
"""Kinds of outcome that each field belongs to."""
_CURVE_POINTS: Final = 41


class PowerQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question to the calculator, with the same names in a query, a body and as options.

    * Of a `proportion`: `baseline`. Of a `mean`: `sd` (and `baseline`, for relative effects). Of a
      `ratio`: `numerator_mean`, `denominator_mean`, `numerator_sd`, `denominator_sd`,
      `correlation`, per unit.
    * With `effect` the answer is the units; with `units` what could be detected; with both the
      power. Effects are absolute or, if `relative`, shares of the size of the baseline: in the
      question and in the answer.
    * `margin` (always absolute) asks for non-inferiority: the effect is then the true one, usually
      0.
    * `allocation`: shares, control first; or `arms` equal ones. With `pair_correlation` the design
      is paired instead: each unit gets all variants, for example a request that is answered twice
      and shown once. The answer counts such units.
    * `design`: one look at the end; `looks` planned ones; continuous monitoring to a known horizon
      (YEAST); always-valid intervals.
    * Traffic: `units_per_day` new units; the share `exposure_share` enters. `weeks_max` is the
      limit.
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
    pair_correlation: Annotated[float, msgspec.Meta(ge=-0.999, le=0.999)] | None = None
    design: Design = "fixed"
    looks: Annotated[int, msgspec.Meta(ge=1, le=20)] = 5
    spending: Spending = "obrien-fleming"
    units_per_day: Positive | None = None
    exposure_share: SomeShare = 1.0
    weeks_max: Annotated[int, msgspec.Meta(ge=1, le=520)] = 8


class Duration(msgspec.Struct, frozen=True, kw_only=True):
    """A duration in whole weeks, so that all weekdays count alike.

    `advice` says what to do if it takes too long.
    """

    feasible: bool
    weeks: int
    days: int
    detectable_in_time: float | None
    advice: tuple[str, ...]


class PowerPoint(msgspec.Struct, frozen=True):
    """The power with a number of units."""

    units: int
    power: float


class DetectablePoint(msgspec.Struct, frozen=True):
    """The smallest effect that is found within a number of days; null if none is."""

    days: int
    effect: float | None


class PowerAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The answer in numbers and one sentence.

    `effect`, `detectable_in_time` and `detectable_by_day` are shares of the baseline if the
    question was `relative`. `units` is the greatest number needed, and `per_variant` its parts in
    the order of the allocation. `inflation` is its ratio to the fixed design. `expected_units` is
    the mean number if the effect is as planned. `power_curve` and `detectable_by_day` are for
    drawing.
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


_WORDS: Final = ("kind", "relative", "design")


def question_of(given: Mapping[str, object]) -> PowerQuestion:
    """Read a question from texts, as in a query or options; numbers stay as they are.

    Raises InvalidInput naming the field that is unknown, not a number, or beyond its bounds.
    """
    fields: dict[str, object] = {}
    for name, value in given.items():
        if name not in PowerQuestion.__struct_fields__:
            raise InvalidInput(f"{name}: unknown field", errors=(FieldError(name, "unknown field"),))
        if name == "allocation" and isinstance(value, str):
            fields[name] = [_number(share, name) for share in value.split(",")]
        elif name == "spending" and isinstance(value, str):
            fields[name] = _spending(value)
        else:
            fields[name] = _number(value, name) if isinstance(value, str) and name not in _WORDS else value
    try:
        return msgspec.convert(fields, PowerQuestion, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        raise InvalidInput(reason, field=path.rstrip("`").partition("[")[0] or "query") from error


def _spending(text: str) -> Spending:
    try:
        return spending_of(text)
    except Meaningless as error:
        raise InvalidInput(str(error), field="spending") from error


def _number(text: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInput(f"{field} must be a number, got {text!r}", field=field)
    return value


def answer(question: PowerQuestion) -> PowerAnswer:
    """Answer a question. Raises InvalidInput naming the field."""
    if question.effect is None and question.units is None:
        raise InvalidInput("give effect, units, or both", field="effect")
    _check_unused(question)
    plan, design = _plan(question)
    try:
        return _answer(question, plan, design)
    except Meaningless as error:
        _refuse(error, question)


def _answer(question: PowerQuestion, plan: planning.Plan, design: SequentialDesign) -> PowerAnswer:
    """Answer by a plan whose fixed test has the power that gives the design its power."""
    scale = _scale(question)
    effect = None if question.effect is None else question.effect * scale
    power, fixed_power = question.power, plan.power
    if effect is None:
        assert question.units is not None
        effect = planning.minimum_detectable_effect(plan, question.units)
    elif question.units is not None:
        fixed_power = planning.power(plan, effect, question.units)
        power = design.power_from(fixed_power)
    if question.units is None:
        sample = planning.sample_size(plan, effect)
        units, per_variant = sample.total, sample.per_variant
    else:
        units = question.units
        paired = question.pair_correlation is not None
        per_variant = (units,) * len(plan.allocation) if paired else _apportioned(units, plan.allocation)
    duration = None
    if question.units_per_day is not None and question.units is None:
        duration = _duration(question, plan, effect, scale)
    return PowerAnswer(
        sentence=_sentence(question, effect / scale, units, power, duration),
        effect=effect / scale,
        power=power,
        units=units,
        per_variant=per_variant,
        inflation=design.inflation(question.power),
        expected_units=math.ceil(units * design.expected_share(design.drift_from(fixed_power))),
        duration=duration,
        power_curve=_power_curve(plan, design, effect, units),
        detectable_by_day=_detectable(question, plan, scale),
    )


def _apportioned(units: int, shares: Sequence[float]) -> tuple[int, ...]:
    """Split units by shares into whole numbers with the right sum (largest remainders)."""
    whole = [math.floor(units * share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda arm: whole[arm] - units * shares[arm])
    for arm in by_remainder[: units - sum(whole)]:
        whole[arm] += 1
    return tuple(whole)


def _check_unused(question: PowerQuestion) -> None:
    """Raise InvalidInput for a field that would be ignored."""
    defaults = PowerQuestion()
    for field, kinds in _OF_KIND.items():
        if question.kind not in kinds and getattr(question, field) is not None:
            belongs = " or ".join(kinds)
            raise InvalidInput(f"{field} belongs to a {belongs}, not to a {question.kind}", field=field)
    for field in ("looks", "spending"):
        if question.design != "group_sequential" and getattr(question, field) != getattr(defaults, field):
            raise InvalidInput(f"{field} belongs to the design group_sequential", field=field)
    if question.allocation is not None and question.arms not in (defaults.arms, len(question.allocation)):
        shares = len(question.allocation)
        raise InvalidInput(f"arms must be the {shares} of allocation, got {question.arms}", field="arms")
    if question.allocation is not None and question.pair_correlation is not None:
        raise InvalidInput("allocation does not fit pair_correlation: use arms", field="allocation")
    for field in ("exposure_share", "weeks_max"):
        if question.units_per_day is None and getattr(question, field) != getattr(defaults, field):
            raise InvalidInput(f"{field} needs units_per_day", field=field)


def _plan(question: PowerQuestion) -> tuple[planning.Plan, SequentialDesign]:
    """Return the plan of the fixed test, and the design that needs more units for the same power."""
    shares = question.allocation or (1 / question.arms,) * question.arms
    if len(shares) > ARMS_MAX:
        raise InvalidInput(f"allocation has at most {ARMS_MAX} shares, got {len(shares)}", field="allocation")
    if not question.power > question.alpha:
        raise InvalidInput(f"power must be above alpha, got {question.power:g}", field="power")
    side: Alternative = "greater" if question.margin else "two-sided"
    level = question.alpha / max(len(shares) - 1, 1)
    sequential = question.design == "group_sequential"
    looks, spending = (question.looks, question.spending) if sequential else (1, "obrien-fleming")
    design = SequentialDesign(question.design, level, side, looks, spending)
    try:
        plan = planning.Plan(
            _outcome(question),
            question.alpha,
            design.fixed_power_for(question.power),
            shares,
            margin=question.margin,
            variance_reduction=question.variance_reduction,
            pair_correlation=question.pair_correlation,
        )
    except Meaningless as error:
        _refuse(error, question)
    return plan, design


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


def _scale(question: PowerQuestion) -> float:
    """Return the size of an effect of 1: 1, or the size of the baseline if effects are relative."""
    if not question.relative:
        return 1.0
    baseline = question.baseline
    if question.kind == "ratio" and question.numerator_mean is not None and question.denominator_mean:
        baseline = question.numerator_mean / question.denominator_mean
    if not baseline:
        raise InvalidInput("a relative effect needs a baseline that is not 0", field="baseline")
    return abs(baseline)


def _refuse(error: Meaningless, question: PowerQuestion) -> NoReturn:
    """Raise InvalidInput for the field that the statistic refuses."""
    reason = str(error)
    known = (name for name in question.__struct_fields__ if reason.startswith(f"{name} must"))
    named = next(known, None)
    field = named or (
        "allocation" if "share" in reason else "units" if "units do not" in reason else "effect"
    )
    raise InvalidInput(reason, field=field) from error


def _duration(question: PowerQuestion, plan: planning.Plan, effect: float, scale: float) -> Duration:
    assert question.units_per_day is not None
    duration = planning.duration(
        plan,
        effect,
        units_per_day=question.units_per_day,
        exposure_share=question.exposure_share,
        weeks_max=question.weeks_max,
        relative_to=scale if question.relative else None,
    )
    match duration:
        case planning.Feasible(weeks=weeks, days=days):
            return Duration(feasible=True, weeks=weeks, days=days, detectable_in_time=None, advice=())
        case planning.TrafficTooLow(weeks=weeks, detectable=detectable, advice=advice):
            return Duration(
                feasible=False,
                weeks=weeks,
                days=7 * weeks,
                detectable_in_time=None if detectable is None else detectable / scale,
                advice=advice,
            )
        case _:
            assert_never(duration)


def _power_curve(
    plan: planning.Plan, design: SequentialDesign, effect: float, units: int
) -> tuple[PowerPoint, ...]:
    steps = range(1, _CURVE_POINTS)
    chosen = sorted(
        {max(round(2 * units * step / (_CURVE_POINTS - 1)), len(plan.allocation)) for step in steps}
    )
    powers = design.powers_from([planning.power(plan, effect, n) for n in chosen])
    return tuple(PowerPoint(n, power) for n, power in zip(chosen, powers, strict=True))


def _detectable(question: PowerQuestion, plan: planning.Plan, scale: float) -> tuple[DetectablePoint, ...]:
    if question.units_per_day is None:
        return ()
    points = []
    for week in range(1, min(question.weeks_max, 52) + 1):
        try:
            effect = planning.minimum_detectable_effect(
                plan, 7 * week * question.units_per_day * question.exposure_share
            )
        except Meaningless:
            effect = None
        points.append(DetectablePoint(7 * week, None if effect is None else effect / scale))
    return tuple(points)


def _sentence(
    question: PowerQuestion, effect: float, units: int, power: float, duration: Duration | None
) -> str:
    what = "shown not to be inferior" if question.margin else "found"
    size = f"{effect:+.4%}" if question.relative else f"{effect:+.4g}"
    of_baseline = " of the baseline" if question.relative else ""
    counted = "units" if question.pair_correlation is None else "pairs"
    text = (
        f"A true effect of {size}{of_baseline} is {what} with probability {power:.0%} in {units:,} {counted}"
    )
    if duration is None:
        return f"{text}."
    if duration.feasible:
        weeks = "1 week" if duration.weeks == 1 else f"{duration.weeks} weeks"
        return f"{text}, which take {weeks}."
    patience = f"more than the {question.weeks_max} allowed: traffic is too low"
    return f"{text}, which take {duration.weeks:,} weeks, {patience}."
