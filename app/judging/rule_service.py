"""Use cases of judging rules: create, list, edit, pause and delete."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from app.core.clock import Clock
from app.core.errors import InvalidInput, UnprocessableInput
from app.core.text import unstorable
from app.experiments.model import Experiment
from app.judging import limits
from app.judging.breaker import BreakerState
from app.judging.budget import Budget, Spending
from app.judging.dispatch import give_up, runs_in_process
from app.judging.judges.model import VersionHash
from app.judging.model import (
    Characters,
    Flags,
    JudgingRule,
    Loss,
    Priority,
    Rate,
    ReservoirSize,
    ResponseFilter,
    RuleRequest,
    RuleSettings,
    Skip,
    State,
    StoredVersion,
    WindowSeconds,
)
from app.judging.planning import arms_served, model_of
from app.judging.planning_service import ELIGIBLE, EXPECTED, SELECTED, is_priced
from app.judging.rule_store import Counts
from app.judging.store import JudgingStores
from app.judging.trust import Trust

_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)

Find = Callable[[str], Awaitable[Experiment]]
"""Returns the experiment with a key. Raises NotFound."""


class RuleChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Fields to replace; absent ones stay. `paused` stops the rule, with all that it wants."""

    filter: ResponseFilter | UnsetType = UNSET
    flags: Flags | UnsetType = UNSET
    rate: Rate | UnsetType = UNSET
    budget: Budget | UnsetType = UNSET
    priority: Priority | UnsetType = UNSET
    window_s: WindowSeconds | UnsetType = UNSET
    reservoir_max: ReservoirSize | UnsetType = UNSET
    characters_max: Characters | UnsetType = UNSET
    redacted: Literal["skip", "judge"] | UnsetType = UNSET
    paused: bool | UnsetType = UNSET


class Funnel(msgspec.Struct, frozen=True, kw_only=True):
    """Fate of the responses of an experiment under a rule.

    `expected` responses were read. Each was judged, left out (`skipped`, by reason), given up
    (`unscored`, by reason), or waits: for the end of its sampling window (`sampling`) or for its
    judge (`waiting`).
    """

    expected: int
    judged: int
    skipped: dict[str, int]
    unscored: dict[str, int]
    sampling: int
    waiting: int


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """Nominal against observed sampling of the responses whose windows have closed.

    `nominal` is the sum of their inclusion probabilities, and `observed` how many were selected.
    """

    responses: int
    nominal: float
    observed: int


class DaySpending(msgspec.Struct, frozen=True, kw_only=True):
    """Use of a rule today (UTC). `unpriced` of the `calls` have no known cost."""

    calls: int
    unpriced: int
    cost_usd: float


class RuleView(RuleSettings, frozen=True, kw_only=True):
    """A rule with its state, its funnel, its sampling and its spending."""

    id: int
    judge: str
    version: VersionHash
    trust: Trust
    breaker: BreakerState
    state: Literal["active", "paused", "finished"]
    since: datetime | None
    until: datetime | None
    created_at: datetime
    funnel: Funnel
    funnel_by_variant: dict[str, Funnel]
    sampling: Observed
    today: DaySpending
    warnings: tuple[str, ...]


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Size of a retrospective rule: the responses that it reads, and the likely cost.

    `cost_usd` is null if the price is unknown.
    """

    responses: int
    judgements: int
    cost_usd: float | None


class RuleService:
    """Use cases of the rules of experiments."""

    def __init__(self, stores: JudgingStores, find: Find, clock: Clock) -> None:
        self._stores = stores
        self._find = find
        self._clock = clock

    async def create(self, key: str, request: RuleRequest) -> RuleView:
        """Create a rule. Raises NotFound, InvalidInput, UnprocessableInput and Conflict."""
        experiment = await self._find(key)
        version = await self._stores.registry.version(request.judge, request.version)
        settings = settings_of(request, version)
        check_settings(settings, experiment, version)
        check_arms(version, experiment)
        since = await self._since(request, settings, experiment, version)
        rule = await self._stores.rules.insert(
            experiment_id=experiment.id,
            version=version.hash,
            settings=settings,
            since=since,
            at=self._clock.now(),
        )
        return await self._view(rule, experiment)

    async def estimate(self, key: str, request: RuleRequest) -> Estimate:
        """Return what a retrospective rule would read and cost. Raises like `create`."""
        experiment = await self._find(key)
        version = await self._stores.registry.version(request.judge, request.version)
        settings = settings_of(request, version)
        check_settings(settings, experiment, version)
        since = await self._since(request, settings, experiment, version)
        if since is None:
            raise InvalidInput("is required for an estimate", field="since")
        responses = await self._stores.rules.count_responses(experiment.id, since)
        judgements = round(settings.rate * responses)
        cost = await self._stores.judgements.mean_cost(version.hash)
        if runs_in_process(version.version):
            cost = 0.0
        elif cost is None and is_priced(version):
            cost = limits.COST_PER_CALL_USD
        return Estimate(
            responses=responses,
            judgements=judgements,
            cost_usd=None if cost is None else cost * judgements,
        )

    async def rules(self, key: str) -> list[RuleView]:
        """Return the rules of an experiment, the oldest first. Raises NotFound."""
        experiment = await self._find(key)
        rules = await self._stores.rules.rules(experiment.id)
        return await self._views(rules, experiment)

    async def get(self, key: str, rule_id: int) -> RuleView:
        """Return a rule. Raises NotFound."""
        experiment = await self._find(key)
        return await self._view(await self._stores.rules.rule(experiment.id, rule_id), experiment)

    async def change(self, key: str, rule_id: int, change: RuleChange) -> RuleView:
        """Replace fields of a rule. Raises NotFound and InvalidInput."""
        experiment = await self._find(key)
        rule = await self._stores.rules.rule(experiment.id, rule_id)
        fields = msgspec.structs.asdict(change)
        paused = fields.pop("paused")
        replaced = {name: value for name, value in fields.items() if value is not UNSET}
        changes: dict[str, Any] = {} if paused is UNSET else {"paused": paused}
        if replaced:
            settings = msgspec.structs.replace(rule.settings, **replaced)
            version = (await self._stores.registry.by_hash([rule.version_hash]))[rule.version_hash]
            check_settings(settings, experiment, version)
            changes["settings"] = msgspec.to_builtins(settings)
        changed = await self._stores.rules.update(experiment.id, rule_id, changes)
        return await self._view(changed, experiment)

    async def delete(self, key: str, rule_id: int) -> None:
        """Delete a rule and give up what it wants. Its judgements stay. Raises NotFound."""
        experiment = await self._find(key)
        await self._stores.rules.rule(experiment.id, rule_id)
        now = self._clock.now()
        async with self._stores.rules.change() as connection:
            wanted = await self._stores.judgements.of_rule(connection, rule_id)
            await give_up(self._stores, connection, wanted, Loss.RULE_DELETED, now)
            await self._stores.rules.delete(connection, experiment.id, rule_id)

    async def _since(
        self, request: RuleRequest, settings: RuleSettings, experiment: Experiment, version: StoredVersion
    ) -> datetime | None:
        since = request.since
        if since is None:
            return None
        if since.tzinfo is None:
            raise InvalidInput("must have a time zone, as in 2026-01-31T08:00:00Z", field="since")
        known = await self._stores.judgements.n_scores(experiment.id, version.hash)
        if known and settings.rate < 1:
            # A response would have one inclusion probability from each rule.
            raise UnprocessableInput(
                f"must be 1, because {version.name} has judged responses of this experiment; "
                f"got {settings.rate:g}",
                field="rate",
            )
        if not _EARLIEST <= since <= self._clock.now():
            raise InvalidInput("must be a time from 1970 until now", field="since")
        return since.astimezone(UTC)

    async def _view(self, rule: JudgingRule, experiment: Experiment) -> RuleView:
        return (await self._views([rule], experiment))[0]

    async def _views(self, rules: Sequence[JudgingRule], experiment: Experiment) -> list[RuleView]:
        versions = await self._stores.registry.by_hash([rule.version_hash for rule in rules])
        ids = [rule.id for rule in rules]
        counts = await self._stores.rules.counts(ids)
        now = self._clock.now()
        spent = await self._stores.rules.spending_on(ids, now.astimezone(UTC).date())
        return [
            _rule_view(
                rule,
                versions[rule.version_hash],
                experiment,
                counts=counts[rule.id],
                spent=spent[rule.id],
                now=now,
            )
            for rule in rules
        ]


def settings_of(request: RuleRequest, version: StoredVersion) -> RuleSettings:
    """Return the settings of a request, with the defaults of the version's kind."""
    rate = request.rate
    if rate is None:
        rate = 1.0 if runs_in_process(version.version) else limits.JUDGING_RATE
    names = [name for name in RuleSettings.__struct_fields__ if name != "rate"]
    return RuleSettings(rate=rate, **{name: getattr(request, name) for name in names})


def check_settings(settings: RuleSettings, experiment: Experiment, version: StoredVersion) -> None:
    """Raise InvalidInput unless the settings fit the experiment and the version."""
    keys = [variant.key for variant in experiment.definition.variants]
    for index, key in enumerate(settings.filter.variants):
        if key not in keys:
            reason = f"no variant is called {key!r}; the experiment has {', '.join(keys)}"
            raise InvalidInput(reason, field=f"filter.variants[{index}]")
    if settings.budget.usd_per_day is not None and runs_in_process(version.version):
        raise InvalidInput(
            "does not apply to a judge that runs in the worker and costs nothing: remove it",
            field="budget.usd_per_day",
        )
    if error := unstorable(msgspec.to_builtins(settings), "filter"):
        raise InvalidInput(f"{error.field}: {error.reason}", errors=(error,))


def check_arms(version: StoredVersion, experiment: Experiment) -> None:
    """Raise UnprocessableInput if the judge's model serves an arm and that is not intended."""
    model = model_of(version.version)
    if model is None or version.serves_arm == "intended":
        return
    served = arms_served(model, experiment.definition.variants)
    if served:
        raise UnprocessableInput(
            f"{version.name} asks {model!r}, which also serves the variant {', '.join(served)}: "
            "a model prefers its own answers. Use another model, or define the judge with "
            'serves_arm "intended"',
            field="judge",
        )


_SKIPS: Final = frozenset(map(str, Skip))
_ON_THE_WAY: Final = frozenset({ELIGIBLE, EXPECTED, SELECTED, State.JUDGED.value})


def funnel(counts: "Counter[str]") -> Funnel:
    """Return the funnel of the numbers of responses by outcome."""
    skipped = {name: n for name, n in sorted(counts.items()) if name in _SKIPS}
    unscored = {name: n for name, n in sorted(counts.items()) if name not in _SKIPS | _ON_THE_WAY}
    ended = counts[State.JUDGED.value] + sum(unscored.values())
    selected = counts[SELECTED]
    return Funnel(
        expected=counts[EXPECTED],
        judged=counts[State.JUDGED.value],
        skipped=skipped,
        unscored=unscored,
        sampling=max(0, counts[EXPECTED] - selected - sum(skipped.values())),
        waiting=max(0, selected - ended),
    )


def _rule_view(
    rule: JudgingRule,
    version: StoredVersion,
    experiment: Experiment,
    *,
    counts: Counts,
    spent: Spending,
    now: datetime,
) -> RuleView:
    variants = experiment.definition.variants
    by_variant: dict[str, Counter[str]] = {variant.key: Counter() for variant in variants}
    total: Counter[str] = Counter()
    for (position, outcome), n in counts.items():
        total[outcome] += n
        if position < len(variants):
            by_variant[variants[position].key][outcome] += n
    finished = rule.finished_at is not None
    return RuleView(
        **msgspec.structs.asdict(rule.settings),
        id=rule.id,
        judge=version.name,
        version=version.hash,
        trust=version.trust,
        breaker=version.breaker.at(now).state,
        state="paused" if rule.paused else "finished" if finished else "active",
        since=rule.since,
        until=rule.until,
        created_at=rule.created_at,
        funnel=funnel(total),
        funnel_by_variant={key: funnel(count) for key, count in by_variant.items()},
        sampling=Observed(responses=rule.eligible, nominal=rule.mass, observed=rule.selected),
        today=DaySpending(calls=spent.calls, unpriced=spent.unpriced, cost_usd=spent.cost_usd),
        warnings=tuple(_warnings(rule, version, spent, now)),
    )


def _warnings(rule: JudgingRule, version: StoredVersion, spent: Spending, now: datetime) -> list[str]:
    warnings = []
    if rule.settings.budget.usd_per_day is not None and (not is_priced(version) or spent.unpriced):
        calls = rule.settings.budget.calls_per_day or limits.UNPRICED_CALLS_MAX
        warnings.append(
            f"the price of a call is unknown, so at most {calls:,} calls a day are made: give operation.price"
        )
    breaker = version.breaker.at(now)
    if breaker.state is not BreakerState.CLOSED:
        warnings.append(f"calls wait: the breaker is {breaker.state.replace('_', ' ')} ({breaker.reason})")
    return warnings
