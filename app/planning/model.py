"""Simulation: traffic by the day in, regret and a recommendation out. Pure."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, assert_never

import msgspec
import numpy as np

from app.core.errors import FieldError, InvalidInput
from app.core.limits import HORIZON_S_MAX, VARIANTS_MAX
from app.core.text import Key
from app.experiments.policies import Policy
from app.experiments.policies.forgetting import Window
from app.experiments.policies.rule import Scene, Setting
from app.experiments.policies.shorthand import policy_of
from app.planning import limits
from bandits.environments import AnyEnvironment, Changing, Drifting, Logged, Seasonal, Stationary
from bandits.simulation import Regret, simulate
from bandits.totals import FloatArray

DAY_S: Final = 86_400
UPDATES: Final = 200
"""How often a policy learns in a simulation, unless the size of batches is given."""
POINTS_MAX: Final = 100
DEFAULTS: Final = ("thompson", "optimistic_thompson", "ucb", "epsilon_greedy", "fixed")
_RUNS_USUAL: Final = (20, 200)
_SEED: Final = 20260101


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The volume of traffic, and the delay of its rewards.

    `batch` is the number of requests between two updates of the policy; null: a 200th of all. A
    server updates more often, with hardly any advantage. A reward becomes known `delay_s` after the
    last request of its batch.
    """

    requests_per_day: Annotated[float, msgspec.Meta(gt=0, le=limits.SIMULATION_REQUESTS_MAX)]
    days: Annotated[float, msgspec.Meta(gt=0, le=limits.SIMULATION_DAYS_MAX)] = 14.0
    batch: Annotated[int, msgspec.Meta(ge=1, le=limits.SIMULATION_BATCH_MAX)] | None = None
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=HORIZON_S_MAX)] = 0.0

    @property
    def requests(self) -> int:
        """Number of requests in all."""
        return round(self.requests_per_day * self.days)

    @property
    def batch_requests(self) -> int:
        """Number of requests between two updates."""
        if self.batch is not None:
            return min(self.batch, self.requests)
        return min(max(1, self.requests // UPDATES), limits.SIMULATION_BATCH_MAX)

    @property
    def delay_requests(self) -> int:
        """Number of requests that come before a reward is known."""
        return math.ceil(self.delay_s / DAY_S * self.requests_per_day)


class Simulation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A request: every policy meets the same environment `runs` times, from the same seed.

    `variants` are the names of the arms, by which the weights of `fixed` refer to them; null: v1,
    v2, … A log has names of its own. A policy is a name, or an object as in a definition.
    `policies` null: thompson, optimistic_thompson, ucb, epsilon_greedy and fixed with their
    defaults, and if means move also a thompson that forgets, with a half-life of a tenth of all
    days. `runs` null: a number from 20 to 200 that takes a few seconds.
    """

    environment: AnyEnvironment
    traffic: Traffic
    variants: tuple[Key, ...] | None = None
    policies: (
        Annotated[
            tuple[str | dict[str, Any], ...],
            msgspec.Meta(min_length=1, max_length=limits.SIMULATION_POLICIES_MAX),
        ]
        | None
    ) = None
    runs: Annotated[int, msgspec.Meta(ge=2, le=limits.SIMULATION_RUNS_MAX)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] = _SEED


class Curve(msgspec.Struct, frozen=True):
    """Mean cumulative regret over runs after so many requests, with its 95 % interval."""

    requests: list[int]
    mean: list[float]
    lower: list[float]
    upper: list[float]


class BestFound(msgspec.Struct, frozen=True):
    """The time at which the best variant took the best average for good, in hindsight.

    The best variant is the best at the end. In `share` of the runs it had the best average at the
    end. `days` and `requests` are the median over all runs; null if that is fewer than half. A
    stopping rule needs longer, as this is not a proof.
    """

    share: float
    days: float | None
    requests: int | None


class PolicyResult(msgspec.Struct, frozen=True, kw_only=True):
    """The cost of a policy on this traffic.

    `lost_rewards` is its final regret: how much less it earned than always serving the best
    variant. It is the mean over runs, with a 95 % interval of that mean. In 1 of 20 runs it was
    above `lost_rewards_p95`. `lost_share` is the mean as a part of what the best variant earns.
    """

    policy: str
    regret: Curve
    lost_rewards: float
    lost_rewards_interval: tuple[float, float]
    lost_rewards_p95: float
    lost_share: float
    best_found: BestFound


class Advice(msgspec.Struct, frozen=True):
    """The recommended policy, and a sentence about it.

    The candidates are the policies that lose no more than the least, within the error of the runs
    (a 95 % interval of the difference). Among them it has the smallest `lost_rewards_p95`. It is
    `clear` if it is the only candidate.
    """

    policy: str
    clear: bool
    sentence: str


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a simulation. Policies are in the order of the request."""

    requests: int
    batch: int
    runs: int
    seed: int
    policies: list[PolicyResult]
    recommendation: Advice


def checked(request: Simulation, *, seconds_usual: float, seconds_max: float) -> Simulation:
    """Return the request if its parts fit together and take at most `seconds_max` of one core.

    If it leaves `runs` open, they are chosen to take `seconds_usual`.

    Raises InvalidInput naming the field.
    """
    if errors := tuple(_errors(request)):
        raise InvalidInput("; ".join(f"{error.field}: {error.reason}" for error in errors), errors=errors)
    chosen = _chosen(request)
    if request.runs is None:
        least, most = _RUNS_USUAL
        fewer, more = (_seconds(chosen, _scene(request, runs)) for runs in _RUNS_USUAL)
        share = (seconds_usual - fewer) / (more - fewer) if more > fewer else 1.0
        runs = least + int((most - least) * min(share, 1.0))
        request = msgspec.structs.replace(request, runs=min(max(runs, least), most))
    if (needed := _seconds(chosen, _scene(request))) > seconds_max:
        raise InvalidInput(
            f"would take about {needed:,.0f} s of computing, at most {seconds_max:g} s are allowed: "
            "use fewer runs or policies, larger batches, or fewer requests",
            field="runs",
        )
    return request


def run(request: Simulation, *, progress: Callable[[float], None] = lambda _: None) -> SimulationResult:
    """Simulate a checked request.

    `progress` is called with the part of the work that was done since.
    """
    scene, traffic = _scene(request), request.traffic
    environment = request.environment.in_rounds(traffic.requests_per_day)
    simulated = {label: policy.simulated(scene) for label, policy in _chosen(request).items()}
    total_s = sum(seconds for _, seconds in simulated.values())
    regrets: dict[str, Regret] = {}
    for label, (policy, seconds) in simulated.items():
        part = seconds / total_s / scene.requests
        regrets[label] = simulate(
            environment,
            policy,
            rounds=scene.requests,
            batch=scene.batch,
            runs=scene.runs,
            rng=np.random.default_rng(request.seed),
            delay=traffic.delay_requests,
            progress=lambda rounds, part=part: progress(rounds * part),  # type: ignore[misc]
        )
    return SimulationResult(
        requests=scene.requests,
        batch=scene.batch,
        runs=scene.runs,
        seed=request.seed,
        policies=[_result(label, regret, traffic) for label, regret in regrets.items()],
        recommendation=_advice(regrets, traffic),
    )


def _variants(request: Simulation) -> tuple[str, ...]:
    if isinstance(request.environment, Logged):
        return tuple(request.environment.rewards)
    return request.variants or tuple(f"v{number + 1}" for number in range(request.environment.n_arms))


def _scene(request: Simulation, runs: int | None = None) -> Scene:
    setting = Setting("", _variants(request), control=0, reward_range=(0.0, 1.0), metrics=())
    traffic = request.traffic
    runs = runs or request.runs or _RUNS_USUAL[0]
    return Scene(setting, traffic.requests_per_day, traffic.requests, traffic.batch_requests, runs)


def _seconds(policies: Mapping[str, Policy], scene: Scene) -> float:
    return sum(policy.simulated(scene).seconds for policy in policies.values())


def _chosen(request: Simulation) -> dict[str, Policy]:
    """Return the policies by label. Raises InvalidInput naming the one that cannot be simulated."""
    given: list[str | dict[str, Any]] = list(request.policies or DEFAULTS)
    if request.policies is None and isinstance(request.environment, Changing | Drifting | Seasonal):
        half_life_s = max(60.0, request.traffic.days * DAY_S / 10)
        given.append({"kind": "thompson", "forgetting": {"kind": "discount", "half_life_s": half_life_s}})
    setting, policies = _scene(request).setting, {}
    for number, spelled in enumerate(given):
        field = f"policies[{number}]"
        policy = policy_of(spelled, setting.variants, field=field)
        if errors := (*policy.errors(field, setting), *_simulation_errors(policy, field)):
            raise InvalidInput("; ".join(f"{error.field}: {error.reason}" for error in errors), errors=errors)
        if (label := _label(policy, setting)) in policies:
            raise InvalidInput(f"{label} is given twice", field=field)
        policies[label] = policy
    return policies


def _simulation_errors(policy: Policy, field: str) -> Iterator[FieldError]:
    if not policy.can_be_simulated:
        reason = "it decides once" if policy.decides else f"it reads {policy.reads}"
        yield FieldError(f"{field}.kind", f"{policy.kind} is not simulated: {reason}")
    if policy.step_limit is not None:
        yield FieldError(f"{field}.step_max", "is not simulated")
    if policy.starts_from is not None:
        yield FieldError(f"{field}.warm_start", "is not simulated: there is no other experiment")
    if isinstance(policy.forgets, Window):
        yield FieldError(f"{field}.forgetting", "a window is not simulated: use a discount")


def _label(policy: Policy, setting: Setting) -> str:
    """Return the kind, and the fields that differ from its defaults."""
    usual = msgspec.to_builtins(policy_of(policy.kind, setting.variants))
    changed = {name: value for name, value in msgspec.to_builtins(policy).items() if usual.get(name) != value}
    described = ", ".join(_leaves(changed))
    return f"{policy.kind} ({described})" if described else policy.kind


def _leaves(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, dict):
            yield from _leaves({key: leaf for key, leaf in value.items() if key != "kind"})
        else:
            yield f"{name} {value:,g}" if isinstance(value, float) else f"{name} {value}"


def _errors(request: Simulation) -> Iterator[FieldError]:
    environment, requests = request.environment, request.traffic.requests
    if environment.n_arms > VARIANTS_MAX:
        yield FieldError("environment", f"at most {VARIANTS_MAX} variants, got {environment.n_arms}")
    if isinstance(environment, Changing) and len(environment.changes) > limits.SIMULATION_CHANGES_MAX:
        count = len(environment.changes)
        yield FieldError("environment.changes", f"at most {limits.SIMULATION_CHANGES_MAX}, got {count}")
    if (days := _longest_days(environment)) > limits.SIMULATION_DAYS_MAX:
        yield FieldError("environment", f"times of at most {limits.SIMULATION_DAYS_MAX} days, got {days:g}")
    if request.variants is not None:
        if isinstance(environment, Logged):
            yield FieldError("variants", "belongs to means: a log has names of its own")
        elif len(set(request.variants)) != environment.n_arms:
            yield FieldError("variants", f"needs {environment.n_arms} different names, one for each mean")
    if not 1 <= requests <= limits.SIMULATION_REQUESTS_MAX:
        bounds = f"1 to {limits.SIMULATION_REQUESTS_MAX:,} requests in all"
        yield FieldError("traffic.requests_per_day", f"must make {bounds}, got {requests:,}")


def _longest_days(environment: AnyEnvironment) -> float:
    match environment:
        case Drifting(duration=days) | Seasonal(period=days):
            return days
        case Changing(changes=changes):
            return max((change.start for change in changes), default=0.0)
        case Stationary() | Logged():
            return 0.0
        case _:
            assert_never(environment)


def _result(label: str, regret: Regret, traffic: Traffic) -> PolicyResult:
    keep = np.unique(np.linspace(0, len(regret.rounds) - 1, POINTS_MAX).round().astype(int))
    settled = float(np.median(regret.settled))
    in_time = settled <= traffic.requests
    return PolicyResult(
        policy=label,
        regret=Curve(
            [int(rounds) for rounds in regret.rounds[keep]],
            *(_numbers(values[keep]) for values in (regret.mean, regret.lower, regret.upper)),
        ),
        lost_rewards=float(regret.mean[-1]),
        lost_rewards_interval=(float(regret.lower[-1]), float(regret.upper[-1])),
        lost_rewards_p95=float(np.quantile(regret.final, 0.95)),
        lost_share=regret.lost,
        best_found=BestFound(
            share=float((regret.settled <= traffic.requests).mean()),
            days=settled / traffic.requests_per_day if in_time else None,
            requests=math.ceil(settled) if in_time else None,
        ),
    )


def _advice(regrets: dict[str, Regret], traffic: Traffic) -> Advice:
    ranked = sorted(regrets, key=lambda label: float(regrets[label].mean[-1]))
    least = regrets[ranked[0]]
    if not any(other.mean[-1] > 0 for other in regrets.values()):
        return Advice(ranked[0], clear=False, sentence="All variants earn the same: any policy will do.")
    margins = {
        label: (
            float(other.mean[-1] - least.mean[-1]),
            1.96 * math.hypot(other.standard_error, least.standard_error),
        )
        for label, other in regrets.items()
    }
    close = [label for label in ranked if margins[label][0] <= margins[label][1] or label == ranked[0]]
    advised = min(close, key=lambda label: float(np.quantile(regrets[label].final, 0.95)))
    regret = regrets[advised]
    sentence = (
        f"Use {advised}: on {traffic.requests:,} requests in {traffic.days:g} days it loses about "
        f"{regret.mean[-1]:,.0f} rewards, {regret.lost:.1%} of what always serving the best variant earns"
    )
    if "fixed" in regrets and advised != "fixed":
        sentence += f"; an even split loses {regrets['fixed'].mean[-1]:,.0f}"
    sentence += ". " + _time_to_find(regret, traffic)
    others = [label for label in close if label != advised]
    if others:
        sentence += (
            f" Within the error of {len(regret.final)} runs {_listed(others)} "
            f"{'lose' if len(others) > 1 else 'loses'} no more on average; bad luck costs {advised} less."
        )
    elif len(ranked) > 1:
        margin, error = margins[ranked[1]]
        sentence += f" The next best, {ranked[1]}, loses {margin:,.0f} ± {error:,.0f} more."
    return Advice(advised, not others, sentence)


def _time_to_find(regret: Regret, traffic: Traffic) -> str:
    settled = float(np.median(regret.settled))
    if settled > traffic.requests:
        return "In most runs another variant was still in front at the end: plan for more traffic."
    days = settled / traffic.requests_per_day
    when = f"{days:.1f} days" if days >= 1 else f"{math.ceil(24 * days)} h"
    return f"In half of the runs the best variant was in front for good within {when}."


def _listed(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _numbers(values: FloatArray) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
