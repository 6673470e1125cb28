"""Simulation as a product engineer asks for it: traffic by the day in, regret and advice out. Pure."""

import math
from collections.abc import Callable, Iterator
from typing import Annotated, Final

import msgspec
import numpy as np

from app.core.errors import FieldError, InvalidInput
from app.core.limits import HORIZON_S_MAX
from app.planning import limits, policies
from app.planning.environments import Changing, Drifting, Environment, Seasonal
from app.planning.policies import Fixed, Policy, PolicyName, Size, Thompson
from bandits.simulation import Regret, simulate
from bandits.totals import FloatArray

DAY_S: Final = 86_400
UPDATES: Final = 200
"""How often a policy learns in a simulation, unless the size of batches is given."""
POINTS_MAX: Final = 100
_RUNS_USUAL: Final = (20, 200)
_SEED: Final = 20260101


class Traffic(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much comes, and how late it is answered.

    `batch` is the number of requests between two updates of the policy; null: a 200th of all, which a
    server that updates within a second undercuts, to hardly any advantage. A reward becomes known `delay_s`
    after the last request of its batch.
    """

    requests_per_day: Annotated[float, msgspec.Meta(gt=0, le=limits.SIMULATION_REQUESTS_MAX)]
    days: Annotated[float, msgspec.Meta(gt=0, le=limits.SIMULATION_DAYS_MAX)] = 14.0
    batch: Annotated[int, msgspec.Meta(ge=1, le=limits.SIMULATION_BATCH_MAX)] | None = None
    delay_s: Annotated[float, msgspec.Meta(ge=0, le=HORIZON_S_MAX)] = 0.0

    @property
    def requests(self) -> int:
        """In all."""
        return round(self.requests_per_day * self.days)

    @property
    def batch_requests(self) -> int:
        """Between two updates."""
        if self.batch is not None:
            return min(self.batch, self.requests)
        return min(max(1, self.requests // UPDATES), limits.SIMULATION_BATCH_MAX)

    @property
    def delay_requests(self) -> int:
        """That come before a reward is known."""
        return math.ceil(self.delay_s / DAY_S * self.requests_per_day)


class Simulation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What to simulate. Every policy meets the same environment `runs` times, from the same seed.

    `runs` null: 20 to 200, as many as take a few seconds.
    `policies` null: thompson, optimistic_thompson, ucb, epsilon_greedy and fixed with their defaults, and
    where means move also a thompson that forgets, with a half-life of a tenth of all requests.
    """

    environment: Environment
    traffic: Traffic
    policies: (
        Annotated[
            tuple[PolicyName | Policy, ...],
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
    """When the average of the variant that is best at the end came to the front for good, in hindsight.

    `share` of the runs had it there at the end; `days` and `requests` are the median over all runs, null
    when fewer than half of them had. No proof of it: a stopping rule needs longer.
    """

    share: float
    days: float | None
    requests: int | None


class PolicyResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy costs on this traffic.

    `lost_rewards` is its final regret: what it earned less than always the best variant would have, mean over
    runs, with a 95 % interval of that mean; in 1 of 20 runs it was above `lost_rewards_p95`. `lost_share` is
    the mean as a part of what the best variant earns: the cost of exploration.
    """

    policy: str
    regret: Curve
    lost_rewards: float
    lost_rewards_interval: tuple[float, float]
    lost_rewards_p95: float
    lost_share: float
    best_found: BestFound


class Advice(msgspec.Struct, frozen=True):
    """The policy to use, and what that means in words.

    Of those that lose no more than the least within the error of the runs (a 95 % interval of the
    difference), it is the one that loses least in bad luck, by `lost_rewards_p95`; `clear` if it is alone.
    """

    policy: str
    clear: bool
    sentence: str


class SimulationResult(msgspec.Struct, frozen=True, kw_only=True):
    """Of the simulation as it was run: policies in the order of the request."""

    requests: int
    batch: int
    runs: int
    seed: int
    policies: list[PolicyResult]
    recommendation: Advice


def checked(request: Simulation, *, seconds_usual: float, seconds_max: float) -> Simulation:
    """The request, if its parts fit together and can be computed in `seconds_max` of one core.

    Where it leaves `runs` open, they are chosen to take `seconds_usual`.

    Raises InvalidInput naming the field.
    """
    if request.runs is None:
        least, most = _RUNS_USUAL
        fewer, more = (seconds(msgspec.structs.replace(request, runs=runs)) for runs in _RUNS_USUAL)
        share = (seconds_usual - fewer) / (more - fewer) if more > fewer else 1.0
        runs = least + int((most - least) * min(share, 1.0))
        request = msgspec.structs.replace(request, runs=min(max(runs, least), most))
    errors = tuple(_errors(request, seconds_max))
    if errors:
        raise InvalidInput("; ".join(f"{error.field}: {error.reason}" for error in errors), errors=errors)
    return request


def run(request: Simulation, *, progress: Callable[[float], None] = lambda _: None) -> SimulationResult:
    """Simulate what `checked` gave back. `progress` hears, often, by how much of 1 the work moved on."""
    chosen = _chosen(request)
    traffic = request.traffic
    environment = request.environment.build(traffic.requests_per_day)
    size = _size(request)
    costs = [policy.seconds(size) for policy in chosen]
    found: dict[str, Regret] = {}
    for policy, cost in zip(chosen, costs, strict=True):
        part = cost / sum(costs) / size.rounds
        found[policy.label] = simulate(
            environment,
            policy.build(size.rounds),
            rounds=size.rounds,
            batch=size.batch,
            runs=size.runs,
            rng=np.random.default_rng(request.seed),
            delay=traffic.delay_requests,
            progress=lambda rounds, part=part: progress(rounds * part),  # type: ignore[misc]
        )
    return SimulationResult(
        requests=size.rounds,
        batch=size.batch,
        runs=size.runs,
        seed=request.seed,
        policies=[_result(label, regret, traffic) for label, regret in found.items()],
        recommendation=_advice(found, traffic),
    )


def seconds(request: Simulation) -> float:
    """What it will take on one core, to a factor of two."""
    size = _size(request)
    return sum(policy.seconds(size) for policy in _chosen(request))


def _chosen(request: Simulation) -> tuple[Policy, ...]:
    if request.policies is not None:
        return tuple(policies.named(policy) for policy in request.policies)
    if not isinstance(request.environment, Changing | Drifting | Seasonal):
        return policies.DEFAULTS
    return (*policies.DEFAULTS, Thompson(half_life_requests=max(1.0, request.traffic.requests / 10)))


def _size(request: Simulation) -> Size:
    traffic = request.traffic
    assert request.runs is not None
    return Size(request.runs, request.environment.n_variants, traffic.requests, traffic.batch_requests)


def _errors(request: Simulation, seconds_max: float) -> Iterator[FieldError]:
    yield from request.environment.errors()
    requests = request.traffic.requests
    if not 1 <= requests <= limits.SIMULATION_REQUESTS_MAX:
        bounds = f"1 to {limits.SIMULATION_REQUESTS_MAX:,} requests in all"
        yield FieldError("traffic.requests_per_day", f"must make {bounds}, got {requests:,}")
        return
    n_variants = request.environment.n_variants
    labels = set()
    for number, policy in enumerate(_chosen(request)):
        if policy.label in labels:
            yield FieldError(f"policies[{number}]", f"{policy.label} is already there")
        labels.add(policy.label)
        if isinstance(policy, Fixed) and policy.weights is not None:
            field = f"policies[{number}].weights"
            if len(policy.weights) != n_variants:
                yield FieldError(field, f"needs one for each of {n_variants} variants")
            elif abs(sum(policy.weights) - 1) > 1e-6:
                yield FieldError(field, f"must sum to 1, got {sum(policy.weights):g}")
    if (needed := seconds(request)) > seconds_max:
        yield FieldError(
            "runs",
            f"would take about {needed:,.0f} s of computing, at most {seconds_max:g} s are allowed: "
            "use fewer runs or policies, larger batches, or fewer requests",
        )


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


def _advice(found: dict[str, Regret], traffic: Traffic) -> Advice:
    ranked = sorted(found, key=lambda label: float(found[label].mean[-1]))
    least = found[ranked[0]]
    if not any(one.mean[-1] > 0 for one in found.values()):
        return Advice(ranked[0], clear=False, sentence="All variants earn the same: any policy will do.")
    margins = {
        label: (
            float(one.mean[-1] - least.mean[-1]),
            1.96 * math.hypot(one.standard_error, least.standard_error),
        )
        for label, one in found.items()
    }
    close = [label for label in ranked if margins[label][0] <= margins[label][1] or label == ranked[0]]
    advised = min(close, key=lambda label: float(np.quantile(found[label].final, 0.95)))
    regret = found[advised]
    said = (
        f"Use {advised}: on {traffic.requests:,} requests in {traffic.days:g} days it loses about "
        f"{regret.mean[-1]:,.0f} rewards, {regret.lost:.1%} of what always serving the best variant earns"
    )
    if "fixed" in found and advised != "fixed":
        said += f"; an even split loses {found['fixed'].mean[-1]:,.0f}"
    said += ". " + _time_to_find(regret, traffic)
    others = [label for label in close if label != advised]
    if others:
        said += (
            f" Within the error of {len(regret.final)} runs {_listed(others)} "
            f"{'lose' if len(others) > 1 else 'loses'} no more on average; bad luck costs {advised} less."
        )
    elif len(ranked) > 1:
        margin, error = margins[ranked[1]]
        said += f" The next best, {ranked[1]}, loses {margin:,.0f} ± {error:,.0f} more."
    return Advice(advised, not others, said)


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
