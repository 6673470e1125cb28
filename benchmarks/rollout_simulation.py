"""Rollouts in simulation: traffic is made up here, and goes through the verdicts and the decider of `app`.

Every run looks after every few units of the canary. Harm is screened for at *all* looks by the elementwise
functions of `stats` that the verdicts are made of; a look at which the screen finds any, and the looks at
which it may advance, go through `verdicts.read` and `decide.decide` themselves, and there the screen must
agree with them to the last digits but three. Only what they decide counts.
"""

import functools
import math
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import numpy as np
from scipy import special

from app.analysis.harm.counts import STAND_IN, TOTAL_RATIO
from app.analysis.harm.question import Baseline
from app.analysis.observed import Cell, Observed
from app.experiments.metrics import Margin
from app.rollouts import planner
from app.rollouts.decide import decide
from app.rollouts.model import (
    PRESETS,
    Advance,
    Completed,
    Guardrail,
    RollBack,
    RolledBack,
    RolloutPlan,
    Running,
    State,
)
from app.rollouts.steps import after
from app.rollouts.verdicts import read, start_level
from stats import mixture, sequences, sequential_counts
from stats.bounded import log_beta_mixture
from stats.one_sided import ArmArrays, contrasts
from stats.quantiles import QuantileSketch, bucket_numbers
from stats.totals import MeanTotals, ProportionTotals

START = datetime(2026, 1, 5, tzinfo=UTC)
ACCURACY = 0.01
Q = 0.95
QUANTILE_UNITS = 2_000.0
RARE = 0.005
CHUNK = 50


class World(NamedTuple):
    """What a variant is like: its share of errors, and latency, lognormal with this mean and sigma."""

    error: float = 0.01
    mean: float = 1.0
    sigma: float = 0.5

    @property
    def baseline(self) -> tuple[Baseline, Baseline]:
        """Of errors and of latency."""
        sd = self.mean * math.sqrt(math.expm1(self.sigma**2))
        errors = Baseline(self.error, math.sqrt(self.error * (1 - self.error)))
        return errors, Baseline(self.mean, sd)


HEALTHY = World()


def plan_for(world: World = HEALTHY, *, only: tuple[str, ...] = (), **changes) -> RolloutPlan:
    """Errors (+ 2 points), mean latency (+ 10 %) and its 95th percentile (+ 20 %), the control being known.

    Where errors are rare, no more than twice as many.
    """
    errors, latency = world.baseline
    error_rate = PRESETS["error_rate"]
    if world.error < RARE:
        error_rate = msgspec.structs.replace(error_rate, margin=Margin(1.0, relative=True))
    guardrails = (
        Guardrail(metric=error_rate, baseline=errors),
        Guardrail(metric=PRESETS["latency"], baseline=latency),
        Guardrail(metric=PRESETS["latency_p95"], baseline=latency),
    )
    chosen = tuple(one for one in guardrails if not only or one.metric.key in only)
    return RolloutPlan(**{"canaries": ("new",), "guardrails": chosen, **changes})


# Traffic


class Paths(NamedTuple):
    """Cumulative totals of one variant at every look: shapes (looks,), then (runs, looks[, buckets])."""

    n: np.ndarray
    errors: np.ndarray
    mean: np.ndarray
    m2: np.ndarray
    buckets: np.ndarray


@functools.cache
def latency_buckets(sigma: float, mean: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers, values and probabilities of the buckets of a sketch in which latencies fall."""
    location = math.log(mean) - sigma**2 / 2
    ends = np.exp(location + 5.5 * sigma * np.array([-1, 1]))
    first, last = bucket_numbers(ends, accuracy=ACCURACY)
    numbers = np.arange(first, last + 1)
    growth = math.log1p(ACCURACY) - math.log1p(-ACCURACY)
    edges = math.log(1e-9) + growth * np.arange(first - 1, last + 1)
    probability = np.diff(special.ndtr((edges - location) / sigma))
    return numbers, np.exp((edges[:-1] + edges[1:]) / 2), probability / probability.sum()


def paths(world: World, n: np.ndarray, runs: int, rng: np.random.Generator) -> Paths:
    """Totals when `n` units, shape (looks,), have come: in every run the same numbers."""
    came = np.diff(n, prepend=0).astype(np.int64)
    errors = rng.binomial(came, world.error, size=(runs, len(n))).cumsum(axis=1)
    _, values, probability = latency_buckets(world.sigma, world.mean)
    counts = rng.multinomial(came, probability, size=(runs, len(n))).cumsum(axis=1, dtype=np.int32)
    total, squares = counts @ values, counts @ values**2
    mean = total / n
    return Paths(n, errors, mean, np.maximum(squares - n * mean**2, 0.0), counts)


def cell(epoch: int, variant: str, world: World, path: Paths, run: int, look: int) -> Cell:
    """One line of the epoch table."""
    n = int(path.n[look])
    numbers, _, _ = latency_buckets(world.sigma, world.mean)
    counts = path.buckets[run, look]
    sketch = QuantileSketch(
        ACCURACY, tuple((int(k), int(c)) for k, c in zip(numbers, counts, strict=True) if c)
    )
    return Cell(
        epoch,
        variant,
        n,
        {
            "error_rate": ProportionTotals(n, int(path.errors[run, look])),
            "latency": MeanTotals(n, float(path.mean[run, look]), float(path.m2[run, look])),
            "latency_p95": sketch,
        },
    )


def looks(units: int, *, step: int = 2, growth: float = 1.015) -> np.ndarray:
    """Numbers of the canary's units at which one looks: every few, later every few per cent."""
    found = [step]
    while found[-1] < units:
        found.append(max(found[-1] + step, round(found[-1] * growth)))
    return np.array([*found[:-1], units])


# The screen


class Stratum(NamedTuple):
    """Totals of both variants in one epoch, shapes that broadcast to (runs, looks)."""

    control: tuple[np.ndarray, ...]
    canary: tuple[np.ndarray, ...]


def _stacked(strata: list[Stratum], arm: int, field: int) -> np.ndarray:
    columns = [(stratum.control, stratum.canary)[arm][field] for stratum in strata]
    return np.stack(np.broadcast_arrays(*columns), axis=-1).astype(float)


def log_errors(plan: RolloutPlan, strata: list[Stratum]) -> np.ndarray:
    """Log e-values against "not more errors", of the stronger of both mixtures at its part of the level."""
    guardrail = next(one for one in plan.guardrails if one.metric.key == "error_rate")
    size, relative = guardrail.margin.size, guardrail.margin.relative
    n_c, n_t = _stacked(strata, 0, 0), _stacked(strata, 1, 0)
    expected = 1 + (size if relative else size / guardrail.baseline.mean)
    found = [
        math.log(part)
        + sequential_counts.log_ratio_mixture(
            _stacked(strata, 0, 1),
            _stacked(strata, 1, 1),
            n_t / (n_c + n_t),
            ratio=1.0,
            expected_ratio=scale,
            alternative="greater",
        )
        for part, scale in ((1 - STAND_IN, expected), (STAND_IN, max(TOTAL_RATIO, expected)))
    ]
    return np.maximum(*found)


def log_latency(plan: RolloutPlan, strata: list[Stratum], level: float) -> np.ndarray:
    """Log e-values against "not slower on average"; minus infinity before the burn-in."""
    guardrail = next(one for one in plan.guardrails if one.metric.key == "latency")
    control, canary = (
        ArmArrays(_stacked(strata, arm, 0), _stacked(strata, arm, 2), _stacked(strata, arm, 3))
        for arm in (0, 1)
    )
    spread = guardrail.baseline.sd / guardrail.baseline.mean
    tuned_to = sequences.units_to_tell(
        math.log1p(guardrail.margin.size), spread, alpha=level, alternative="greater"
    )
    rho = mixture.tuned(tuned_to / 2, alpha=level, alternative="greater")
    evidence = []
    for relative, part in ((True, 1 - STAND_IN), (False, STAND_IN)):
        found = contrasts(control, canary, relative=relative, bounds=(-math.inf, math.inf))
        score = found.effect / np.sqrt(found.variance_greater) * np.sqrt(found.time)
        evidence.append(
            math.log(part) + mixture.log_mixture(score, found.time, rho=rho, alternative="greater")
        )
    return np.where(canary.n.sum(axis=-1) >= sequences.ARM_UNITS_MIN, np.maximum(*evidence), -np.inf)


@functools.lru_cache(maxsize=200_000)
def _rank(n: int, side: float, *, upper: bool) -> int | None:
    """The rank that bounds the quantile in `stats.quantiles.quantile_sequence`."""
    weight = max(mixture.tuned(QUANTILE_UNITS, alpha=side, alternative="greater") - 1, 0.5)

    def rejected(ranks: np.ndarray) -> np.ndarray:
        evidence = log_beta_mixture(ranks, n, Q, weight=weight, alternative="greater" if upper else "less")
        return np.asarray(evidence) >= -math.log(side)

    middle = math.floor(Q * n)
    low, high = (middle, n) if upper else (0, middle)
    if not rejected(np.array(float(high if upper else low))):
        return None
    while high - low > 1:
        inner = (low + high) // 2
        if bool(rejected(np.array(float(inner)))) == upper:
            high = inner
        else:
            low = inner
    return high if upper else max(high, 1)


def p95_is_harm(
    control: Paths, canary: Paths, numbers: tuple[np.ndarray, np.ndarray], level: float
) -> np.ndarray:
    """Where the canary's lower bound of the 95th percentile is above the control's upper one."""
    result = np.zeros(canary.errors.shape, dtype=bool)
    side = level / 2
    for look, (n_c, n_t) in enumerate(zip(control.n, canary.n, strict=True)):
        ranks = [_rank(int(n_t), side, upper=False), _rank(int(n_c), side, upper=True)]
        if None in ranks:
            continue
        ours, theirs = (
            (path.buckets[:, look].cumsum(axis=1) < rank).sum(axis=1)
            for path, rank in ((canary, ranks[0]), (control, ranks[1]))
        )
        # The lower edge of ours is above the upper edge of theirs.
        result[:, look] = (
            numbers[1][np.minimum(ours, len(numbers[1]) - 1)] - 1
            > numbers[0][np.minimum(theirs, len(numbers[0]) - 1)]
        )
    return result


# Runs


class Outcome(NamedTuple):
    """How a run ended: rolled_back, completed or waiting; in which stage, after how many units of the canary.

    `stage_units` of them came in that stage. `reason` names the guardrails that proved harm.
    """

    end: str
    stage: int
    canary_units: int
    stage_units: int
    reason: str


class Run:
    """One rollout on its way: its state, and the epoch table of the stages it has left."""

    def __init__(self, plan: RolloutPlan) -> None:
        self.state: State = Running(stage=0, entered_at=START, epoch=1, canaries=plan.canaries)
        self.cells: list[Cell] = []
        self.left: list[Stratum] = []
        self.units = self.stage_units = 0
        self.reason = ""


def simulate(
    plan: RolloutPlan,
    control: World,
    canary: Callable[[int], World],
    *,
    runs: int,
    units: tuple[int, ...],
    per_day: float,
    rng: np.random.Generator,
    progress: Callable[[int], None] = lambda _: None,
) -> Iterator[Outcome]:
    """`runs` rollouts, in which stage k offers `units[k]` units of the canary, at `per_day` requests.

    `canary` says what the canary is like in each stage.
    """
    for first in range(0, runs, CHUNK):
        size = min(CHUNK, runs - first)
        chunk = [Run(plan) for _ in range(size)]
        for stage in range(len(plan.measured_stages)):
            _stage(plan, chunk, stage, (control, canary(stage)), units[stage], per_day, rng)
        for run in chunk:
            ended = {RolledBack: "rolled_back", Completed: "completed"}.get(type(run.state), "waiting")
            stage = run.state.stage if isinstance(run.state, RolledBack | Running) else len(units)
            yield Outcome(ended, stage, run.units, run.stage_units, run.reason)
        progress(size)


def _stage(plan, chunk, stage, worlds, units, per_day, rng) -> None:
    inside = [run for run in chunk if isinstance(run.state, Running) and run.state.stage == stage]
    if not inside:
        return
    share = plan.stages[stage].share
    ours = looks(units)
    theirs = np.maximum(np.round(ours * (1 - share) / share), 1).astype(np.int64)
    control, canary = (
        paths(world, n, len(inside), rng) for world, n in zip(worlds, (theirs, ours), strict=True)
    )
    suspicious, evidence = _screen(plan, inside, worlds, control, canary)
    soonest = np.searchsorted(ours, plan.stages[stage].duration_s / 86_400 * share * per_day)
    may_advance = set(range(int(soonest), len(ours), 6)) | {len(ours) - 1}
    for index, run in enumerate(inside):
        for look in sorted(may_advance | set(np.flatnonzero(suspicious[index]).tolist())):
            if _decided(
                plan, run, index, look, worlds, (control, canary), share * per_day, suspicious, evidence
            ):
                break
        else:
            run.units += units
            run.stage_units = units


def _now(run: Run, seen: int, per_day: float) -> datetime:
    return run.state.entered_at + timedelta(days=seen / per_day)


def _decided(plan, run, index, look, worlds, both, per_day, suspicious, evidence) -> bool:
    """Whether this look ended the stage, by the real verdicts and the real decider."""
    control, canary = both
    epoch = run.state.stage + 1
    table = [
        *run.cells,
        cell(epoch, "old", worlds[0], control, index, look),
        cell(epoch, "new", worlds[1], canary, index, look),
    ]
    observed = Observed(variants=("old", "new"), control="old", cells=table)
    now = _now(run, int(canary.n[look]), per_day)
    reading = read(plan, run.state, observed, findings=(), now=now, as_of=now)
    _check_screen(
        reading, suspicious[index, look], {key: found[index, look] for key, found in evidence.items()}
    )
    decision = decide(plan, run.state, reading, now)
    if isinstance(decision, RollBack):
        run.reason = "+".join(one.metric for one in reading.guardrails if one.verdict == "harm")
    run.state = after(run.state, decision, at=now, epoch=epoch + 1)
    if not isinstance(run.state, Running) or isinstance(decision, Advance):
        run.stage_units = int(canary.n[look])
        run.units += run.stage_units
        run.cells = table
        run.left.append(
            Stratum(
                *(
                    (
                        np.float64(path.n[look]),
                        path.errors[index, look],
                        path.mean[index, look],
                        path.m2[index, look],
                    )
                    for path in both
                )
            )
        )
        return True
    return False


def _screen(plan, inside, worlds, control, canary) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Where any start may prove harm, and the evidence of the first start."""
    keys = {one.metric.key for one in plan.guardrails}
    level = plan.alpha / len(plan.guardrails)
    now = Stratum(*((path.n, path.errors, path.mean, path.m2) for path in (control, canary)))
    before = len(inside[0].left)
    numbers = tuple(latency_buckets(world.sigma, world.mean)[0] for world in worlds)
    suspicious = np.zeros(canary.errors.shape, dtype=bool)
    evidence: dict[str, np.ndarray] = {}
    for position in range(1, before + 2):
        strata = [_of_runs(inside, k) for k in range(position - 1, before)] + [now]
        own = start_level(level, position)
        if "error_rate" in keys:
            found = log_errors(plan, strata)
            suspicious |= found >= -math.log(own)
            evidence.setdefault("error_rate", found)
        if "latency" in keys:
            found = log_latency(plan, strata, own)
            suspicious |= found >= -math.log(own)
            evidence.setdefault("latency", found)
        if "latency_p95" in keys and position == before + 1:
            suspicious |= p95_is_harm(control, canary, numbers, own)
    return suspicious, evidence


def _of_runs(inside: list[Run], k: int) -> Stratum:
    """The totals with which these runs left a stage, shapes (runs, 1)."""
    return Stratum(
        *(
            tuple(
                np.array([getattr(run.left[k], arm)[field] for run in inside], dtype=float)[:, None]
                for field in range(4)
            )
            for arm in ("control", "canary")
        )
    )


def _check_screen(reading, suspicious, evidence: dict[str, float]) -> None:
    """The screen must have seen every harm, and have the statistic of the verdict where both have one."""
    for one in reading.guardrails:
        assert one.verdict != "harm" or suspicious, f"the screen has not seen harm of {one.metric}"
        known = evidence.get(one.metric)
        if known is None or one.harm is None or one.harm.since_epoch != 1:
            continue
        assert math.isclose(one.harm.statistic, known, rel_tol=1e-6, abs_tol=1e-6), (one, known)


@functools.cache
def planned_units(plan: RolloutPlan) -> tuple[int, ...]:
    """What the planner asks for, of the canary in each stage."""
    return tuple(stage.canary_units or 0 for stage in planner.stages(plan))
