"""Planning: which of the stored responses are judged. One transaction per rule and page."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec

from app.core.clock import Clock
from app.core.items import Items
from app.core.postgres import Transaction
from app.core.telemetry import JUDGED_RESPONSES
from app.experiments.model import Experiment
from app.judging import limits, sampling
from app.judging.budget import Spending, calls_max, plannable, seconds_left
from app.judging.judges.model import LocalVersion, RuleVersion
from app.judging.model import Candidate, JudgingRule, Loss, Skip, StoredVersion
from app.judging.planning import RuleScope, candidate, classified, model_of
from app.judging.rule_store import Counts, Kept, Window
from app.judging.sampling import Stratum
from app.judging.store import JudgingStores
from app.responses.model import StoredResponse

Toxicity = Callable[[Sequence[str]], Awaitable[Sequence[float | None]]]
"""Returns the probability that each text is toxic; None where nothing can measure it."""

ELIGIBLE: Final = "eligible"
EXPECTED: Final = "expected"
SELECTED: Final = "selected"
"""Outcomes that count responses on their way; all others are ends."""


class Planner:
    """Planner of judgements. Several may run: each rule is planned by one at a time."""

    def __init__(self, stores: JudgingStores, clock: Clock, toxicity: Toxicity) -> None:
        self.stores = stores
        self._clock = clock
        self._toxicity = toxicity
        self._items = Items("judging rules", "judging_rule_not_planned")

    @property
    def errors(self) -> dict[str, str]:
        """Errors of the rules that cannot be planned at present, by name."""
        return self._items.errors

    async def plan(self) -> None:
        """Plan for every rule until it has read all responses."""
        rules = {f"judging rule {rule.id}": rule for rule in await self.stores.rules.reading()}
        if not (rules or self.errors):
            return
        versions = await self.stores.registry.by_hash([rule.version_hash for rule in rules.values()])
        experiments = await self.stores.rules.experiments([rule.experiment_id for rule in rules.values()])
        due = await self.stores.rules.with_windows_due(self._clock.now())

        async def plan_rule(rule: JudgingRule) -> None:
            version, experiment = versions[rule.version_hash], experiments[rule.experiment_id]
            await self._plan_rule(rule, version, experiment, due=rule.id in due)

        await self._items.each(rules, plan_rule)

    async def _plan_rule(
        self, rule: JudgingRule, version: StoredVersion, experiment: Experiment, *, due: bool
    ) -> None:
        cursor = rule.cursor
        while True:
            page, following = await self.stores.responses.after(
                cursor, limits.PLANNED_RESPONSES_MAX, experiment_id=rule.experiment_id
            )
            ended = rule.until is not None and (
                len(page) < limits.PLANNED_RESPONSES_MAX or page[-1].received_at > rule.until
            )
            if not (page or due or ended):
                return
            covered = _within(page, rule)
            toxicities = await self._toxicities(covered, rule)
            async with self.stores.rules.change() as connection:
                locked = await self.stores.rules.lock(connection, rule.id)
                if locked is None or locked.cursor != cursor:
                    return
                planning = _Planning(self, connection, locked, version, experiment)
                pairs = list(zip(covered, toxicities, strict=True))
                await planning.run(pairs, cursor=following, ended=ended)
            cursor, due = following, False
            if ended or len(page) < limits.PLANNED_RESPONSES_MAX:
                return

    def now(self) -> datetime:
        """Return the present time."""
        return self._clock.now()

    async def _toxicities(self, page: Sequence[StoredResponse], rule: JudgingRule) -> Sequence[float | None]:
        """Return the toxicity of each response, if the rule flags by it."""
        if rule.settings.flags.toxicity is None or not page:
            return [None] * len(page)
        return await self._toxicity([response.response for response in page])


class _Planning:
    """One transaction of a locked rule: responses are counted, kept in reservoirs, or wanted."""

    def __init__(
        self,
        planner: Planner,
        connection: Transaction,
        rule: JudgingRule,
        version: StoredVersion,
        experiment: Experiment,
    ) -> None:
        self._planner = planner
        self._connection = connection
        self._rule = rule
        self._version = version
        self._variants = experiment.definition.variants
        self._n_active = len(experiment.definition.active)
        self._now = planner.now()
        self._counts: Counts = Counter()
        self._changed: dict[str, Window] = {}
        self._kept: list[Kept] = []
        self._wanted: list[tuple[str, float, Candidate]] = []
        self._eligible, self._mass, self._used = 0, 0.0, Spending()
        self._salt = sampling.salt_of(rule.experiment_id, version.name)

    async def run(
        self, page: Sequence[tuple[StoredResponse, float | None]], *, cursor: int, ended: bool
    ) -> None:
        """Close the windows that are due, then take in the page of responses and toxicities."""
        rules, connection, rule = self._planner.stores.rules, self._connection, self._rule
        windows = await rules.windows(connection, rule.id)
        await self._close([window for window in windows.values() if window.closes_at <= self._now])
        windows |= self._changed
        seen = await rules.eligible_by_variant(connection, rule.id)
        for stratum, members in self._classify(page).items():
            self._take(stratum, members, windows, seen)
        await rules.keep(connection, rule, self._kept)
        if ended:
            await self._close([window for window in (windows | self._changed).values() if window.seen])
        selected = await self._want()
        await rules.store_windows(connection, rule.id, self._changed.values())
        await rules.count(connection, rule.id, self._counts)
        await rules.spend(connection, rule.id, self._now.astimezone(UTC).date(), self._used)
        await rules.advance(
            connection,
            rule,
            cursor=cursor,
            finished_at=self._now if ended else None,
            drawn=(self._eligible, self._mass, selected),
        )

    def _classify(
        self, page: Sequence[tuple[StoredResponse, float | None]]
    ) -> dict[Stratum, list[Candidate]]:
        """Return the eligible responses by stratum, and count the others."""
        intended = self._version.serves_arm == "intended"
        scope = RuleScope(
            settings=self._rule.settings,
            variants=[variant.key for variant in self._variants],
            own_model=None if intended else model_of(self._version.version),
        )
        groups: dict[Stratum, list[Candidate]] = {}
        for response, toxicity in page:
            self._counts[response.variant, EXPECTED] += 1
            match classified(response, scope, toxicity):
                case Skip() as skip:
                    self._counts[response.variant, skip] += 1
                case stratum:
                    self._counts[response.variant, ELIGIBLE] += 1
                    groups.setdefault(stratum, []).append(candidate(response))
        return groups

    def _take(
        self,
        stratum: Stratum,
        members: Sequence[Candidate],
        windows: dict[str, Window],
        seen: dict[int, int],
    ) -> None:
        """Want all members of a stratum with rate 1, or put them into the window of the stratum."""
        settings = self._rule.settings
        rate = 1.0 if stratum.flagged else settings.rate
        if not stratum.flagged:
            rate = sampling.boosted(rate, stratum.variant, seen, self._n_active)
        window = windows.get(stratum.name)
        open_window = window is not None and window.seen > 0
        if rate >= 1 and not settings.budget.bounded and not open_window:
            self._wanted += [(stratum.name, 1.0, member) for member in members]
            self._eligible += len(members)
            self._mass += len(members)
            self._used = msgspec.structs.replace(
                self._used,
                planned=self._used.planned + len(members),
                eligible=self._used.eligible + len(members),
            )
            return
        if window is None or not open_window:
            window = self._opened(stratum, window, rate)
        added = len(members)
        changed = msgspec.structs.replace(window, seen=window.seen + added, total=window.total + added)
        windows[stratum.name] = self._changed[stratum.name] = changed
        self._kept += [
            Kept(stratum.name, sampling.point(self._salt, member.response_key), member) for member in members
        ]

    def _opened(self, stratum: Stratum, before: Window | None, rate: float) -> Window:
        return Window(
            stratum=stratum.name,
            number=1 if before is None else before.number + 1,
            closes_at=self._now + timedelta(seconds=self._rule.settings.window_s),
            seen=0,
            rate=rate,
            total=0 if before is None else before.total,
        )

    async def _close(self, windows: Sequence[Window]) -> None:
        """Draw from the reservoirs of these windows, flagged ones first, and empty them."""
        if not any(window.seen for window in windows):
            return
        rules, connection, rule = self._planner.stores.rules, self._connection, self._rule
        day = self._now.astimezone(UTC).date()
        spending = (await rules.spending(connection, [rule.id], day))[rule.id]
        per_call = await rules.cost_per_call(connection, rule.id, day)
        bound = calls_max(
            rule.settings.budget, spending, priced=is_priced(self._version), cost_per_call=per_call
        )
        for window in sorted(windows, key=lambda window: (not _is_flagged(window), window.stratum)):
            if window.seen:
                await self._draw(window, bound, spending)

    async def _draw(self, window: Window, bound: float, spending: Spending) -> None:
        rule = self._rule
        used = Spending(
            planned=max(spending.planned, spending.calls) + self._used.planned,
            eligible=spending.eligible + self._used.eligible,
        )
        midnight = self._now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        planned = plannable(
            bound,
            used,
            rate=window.rate,
            n=window.seen,
            flagged=_is_flagged(window),
            elapsed_s=(self._now - max(midnight, rule.created_at)).total_seconds(),
            left_s=seconds_left(self._now.astimezone(UTC)),
        )
        group = f"{rule.id}/{window.number}/{window.stratum}"
        drawn = sampling.draw(
            planned,
            window.seen,
            coin=sampling.coin(self._salt, group),
            reservoir_max=rule.settings.reservoir_max,
        )
        chosen = await self._planner.stores.rules.take(self._connection, rule.id, window.stratum, drawn.n)
        self._wanted += [(window.stratum, drawn.probability, member) for member in chosen]
        variant = int(window.stratum.rpartition("/")[2])
        missed = window.seen - len(chosen)
        by_budget = min(missed, round(window.rate * window.seen - planned))
        self._counts[variant, Skip.BUDGET] += by_budget
        self._counts[variant, Skip.RATE] += missed - by_budget
        self._eligible += window.seen
        self._mass += drawn.probability * window.seen
        self._used = msgspec.structs.replace(
            self._used,
            planned=self._used.planned + len(chosen),
            eligible=self._used.eligible + window.seen,
        )
        self._changed[window.stratum] = msgspec.structs.replace(window, seen=0)

    async def _want(self) -> int:
        """Store what is wanted; return the number of responses."""
        repeats = not isinstance(self._version.version, RuleVersion | LocalVersion)
        stored, new = await self._planner.stores.judgements.want(
            self._connection, self._rule, self._wanted, repeats=repeats, now=self._now
        )
        for _, _, member in self._wanted:
            known = member.response_key in stored and member.response_key not in new
            self._counts[member.variant, Skip.KNOWN if known else SELECTED] += 1
            if member.response_key not in stored:
                self._counts[member.variant, Loss.TEXT_GONE] += 1
        JUDGED_RESPONSES.labels("wanted").inc(len(new))
        return len(self._wanted)


def is_priced(version: StoredVersion) -> bool:
    """Return whether the cost of a call is known. Judges in this process cost nothing."""
    if isinstance(version.version, RuleVersion | LocalVersion):
        return True
    return version.version.operation.price is not None


def _is_flagged(window: Window) -> bool:
    return window.stratum.startswith(sampling.FLAGGED)


def _within(page: Sequence[StoredResponse], rule: JudgingRule) -> Sequence[StoredResponse]:
    """Return the responses of a page that a retrospective rule covers; of a live one, all."""
    if rule.since is None or rule.until is None:
        return page
    return [response for response in page if rule.since <= response.received_at <= rule.until]
