"""Budget of a judging rule and day: how many judgements to plan, and how many calls may run. Pure.

A day is one of UTC. Planning uses the first `FREE_SHARE` of a day's budget at the rule's own rate.
Then it spreads the remaining part over the traffic that the day still expects. So a budget lowers
the inclusion probabilities of later responses instead of cutting off the evening, and estimates
stay unbiased if quality changes over the day. Calls are a separate and hard bound: they also count
those that failed, and never pass the cap.
"""

from datetime import datetime
from typing import Annotated, Final

import msgspec

from app.judging import limits

_DAY_S: Final = 86_400
_MARGIN: Final = 1.25  # by which a judgement may cost more than any before it


class Budget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Most that a rule may spend on one UTC day: US dollars, calls, or both; null: no bound.

    If the price of a call is unknown, dollars cannot be counted. Then `calls_per_day` holds, or
    `UNPRICED_CALLS_MAX` if it is null.
    """

    usd_per_day: Annotated[float, msgspec.Meta(ge=0, le=limits.DAY_USD_MAX)] | None = None
    calls_per_day: Annotated[int, msgspec.Meta(ge=0, le=limits.DAY_CALLS_MAX)] | None = None

    @property
    def bounded(self) -> bool:
        """Whether there is any bound."""
        return self.usd_per_day is not None or self.calls_per_day is not None


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """Use of a rule on one day.

    `planned` judgements, `calls` (attempts of them), those of `calls` without a price, and the cost
    of the others in US dollars. `dearest_usd` is the greatest cost of one judgement. `eligible`
    responses passed the filter.
    """

    planned: int = 0
    calls: int = 0
    unpriced: int = 0
    cost_usd: float = 0.0
    dearest_usd: float = 0.0
    eligible: int = 0

    @property
    def cost_per_call(self) -> float | None:
        """Mean cost of the priced calls of the day; None without one."""
        priced = self.calls - self.unpriced
        return self.cost_usd / priced if priced > 0 else None


def calls_max(budget: Budget, spending: Spending, *, priced: bool, cost_per_call: float | None) -> float:
    """Return how many calls the budget of the whole day holds; infinity without a bound.

    `priced`: whether the version has a price. A version that has one, but whose calls came back
    without a cost, counts as unpriced.

    Worked by hand: 5 USD a day at 0.002 USD a call hold 2,500 calls; without a price 1,000.
    """
    bound = float("inf") if budget.calls_per_day is None else float(budget.calls_per_day)
    if budget.usd_per_day is None:
        return bound
    if not priced or spending.unpriced:
        unpriced = limits.UNPRICED_CALLS_MAX if budget.calls_per_day is None else budget.calls_per_day
        bound = min(bound, unpriced)
    if not priced:
        return bound if budget.usd_per_day > 0 else 0.0
    known = (spending.cost_per_call, cost_per_call, limits.COST_PER_CALL_USD)
    each = next(cost for cost in known if cost is not None)
    return min(bound, budget.usd_per_day / each) if each > 0 else bound


def room(
    budget: Budget, spending: Spending, *, leased: int, priced: bool, cost_per_call: float
) -> int | None:
    """Return how many judgements may start now; None without a bound. `leased` ones run already.

    Those that run may each cost as much as the dearest one of the day and a quarter more, or
    `cost_per_call` US dollars before the first one.
    """
    rooms: list[float] = []
    if budget.calls_per_day is not None:
        rooms.append(budget.calls_per_day - spending.calls - leased)
    if budget.usd_per_day is not None and priced:
        each = _MARGIN * spending.dearest_usd or cost_per_call
        spare = budget.usd_per_day - spending.cost_usd
        rooms.append(spare / each - leased if each > 0 else float("inf") if spare > 0 else 0)
    if budget.usd_per_day is not None and (not priced or spending.unpriced):
        unpriced = limits.UNPRICED_CALLS_MAX if budget.calls_per_day is None else budget.calls_per_day
        rooms.append(unpriced - spending.calls - leased if budget.usd_per_day > 0 else 0)
    least = min(rooms, default=float("inf"))
    return None if least == float("inf") else max(0, int(least))


def plannable(
    bound: float, spending: Spending, *, rate: float, n: int, flagged: bool, elapsed_s: float, left_s: float
) -> float:
    """Return how many of `n` responses to judge on average, with a budget of `bound` calls a day.

    It is at most `rate * n`. `elapsed_s` and `left_s` are the times of the day so far, since its
    start or that of the rule, and until its end. The traffic to come is that of the day so far, at
    the same speed.

    Worked by hand: of 100 calls 40 are planned, and 10 are free at the full rate. A window of 200
    responses at rate 0.1 wants 20. It gets the 10 free ones, and of the other 10 the share that the
    budget holds for the remaining day: 50 calls for 10 + 90 wanted ones, so 5. It plans 15.
    """
    wanted = rate * n
    if bound == float("inf"):
        return wanted
    share = limits.FLAGGED_FREE_SHARE if flagged else limits.FREE_SHARE
    free = max(0.0, share * bound - spending.planned)
    if wanted <= free:
        return wanted
    remaining = max(0.0, bound - spending.planned - free)
    speed = (spending.eligible + n) / max(elapsed_s, limits.PACE_FLOOR_S)
    to_come = rate * speed * max(left_s, 0.0)
    beyond = wanted - free
    return free + beyond * min(1.0, remaining / (beyond + to_come))


def seconds_left(now: datetime) -> float:
    """Return the seconds until the end of the UTC day."""
    return _DAY_S - (now.hour * 3_600 + now.minute * 60 + now.second + now.microsecond / 1e6)
