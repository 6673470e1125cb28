"""Use cases of judging: claim what is wanted, let its judge score it, and record what came out."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final, NamedTuple, Protocol

import msgspec
import structlog

from app.core import telemetry
from app.core.clock import Clock
from app.core.postgres import Transaction
from app.jobs.retry import following
from app.judging import limits
from app.judging.breaker import Breaker, BreakerState, RecentCalls
from app.judging.budget import Spending, room
from app.judging.judgement_store import Job, Result
from app.judging.judges.judge import Judge
from app.judging.judges.model import (
    Attempt,
    Judged,
    JudgedText,
    JudgeVersion,
    LocalVersion,
    Reason,
    RuleVersion,
    Unscored,
    VersionHash,
    cost_usd,
)
from app.judging.model import JudgingRule, Loss, State, StoredVersion
from app.judging.planning_service import is_priced
from app.judging.store import JudgingStores
from app.responses.model import StoredResponse

_LOG = structlog.get_logger(__name__)

WAITS_S: Final = (0, 2, 10, 60, 300, 1_800, 7_200)
"""Seconds between each attempt at a judgement and the one before it."""

Score = Judged | Unscored | Loss


class Judges(Protocol):
    """Judges that are ready to score."""

    async def open(self, version: StoredVersion) -> Judge:
        """Return the judge of a version; it may be the same for every call."""
        ...

    async def remember(self, version: StoredVersion) -> None:
        """Store what the calls of a version taught."""
        ...


_BREAKER_LEVELS: Final = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class Work(NamedTuple):
    """Claimed judgements of one version that are judged together."""

    version: StoredVersion
    jobs: Sequence[Job]


class Done(NamedTuple):
    """Work with the score of each of its jobs, and the seconds that it took."""

    work: Work
    scores: Sequence[Score]
    seconds: float


class JudgingDispatcher:
    """Claims, judges and records. Several may run at once; each judgement is leased to one of them.

    If a worker dies, its leases end and other workers judge the same judgements again, under the
    same ids. A result is recorded only by the worker that has the lease.
    """

    def __init__(self, stores: JudgingStores, judges: Judges, clock: Clock, random: Random) -> None:
        self._stores = stores
        self._registry, self._rules, self._judgements, self._responses = stores
        self._judges = judges
        self._clock = clock
        self._random = random
        self._running: dict[str, Job] = {}
        self._recent: defaultdict[VersionHash, RecentCalls] = defaultdict(RecentCalls)

    async def claim_calls(self, free: int) -> list[Work]:
        """Claim up to `free` judgements whose judges ask an endpoint; each is work of its own."""
        works = await self._claim(free, in_process=False)
        return [Work(work.version, [job]) for work in works for job in work.jobs]

    async def claim_batches(self, free: int) -> list[Work]:
        """Claim up to `free` batches for judges that run in this process."""
        works = await self._claim(free * limits.JUDGING_BATCH_MAX, in_process=True)
        size = limits.JUDGING_BATCH_MAX
        return [
            Work(work.version, work.jobs[start : start + size])
            for work in works
            for start in range(0, len(work.jobs), size)
        ]

    async def attempt(self, work: Work) -> Done:
        """Judge claimed work."""
        begun = asyncio.get_running_loop().time()
        stored = {
            response.response_key: response
            for response in await self._responses.read(
                list(dict.fromkeys(job.response_key for job in work.jobs))
            )
            if not response.erased
        }
        present = [job for job in work.jobs if job.response_key in stored]
        scores: dict[str, Score] = {}
        if present:
            items = [_judged_text(stored[job.response_key]) for job in present]
            answers = await self._score(work.version, items)
            scores = {str(job.id): answer for job, answer in zip(present, answers, strict=True)}
        ordered = [scores.get(str(job.id), Loss.TEXT_GONE) for job in work.jobs]
        return Done(work, ordered, asyncio.get_running_loop().time() - begun)

    async def record(self, done: Sequence[Done]) -> None:
        """Record results in one transaction, and move the breakers of their versions."""
        now = self._clock.now()
        jobs = [job for work, _, _ in done for job in work.jobs]
        try:
            async with self._judgements.change() as connection:
                ours = await self._judgements.lock(connection, jobs)
                versions = {work.version.hash for work, _, _ in done}
                promoted = await self._judgements.promoted(connection, versions)
                live = {rule.id for rule in await self._rules.working() if rule.live}
                recorded: list[tuple[Job, Score, Result, StoredVersion]] = []
                for work, scores, seconds in done:
                    for job, score in zip(work.jobs, scores, strict=True):
                        if job.id not in ours:
                            continue
                        feeds = work.version.hash in promoted and job.rule_id in live
                        result = self._result(job, score, seconds, now=now, feeds=feeds)
                        recorded.append((job, score, result, work.version))
                await self._store(connection, recorded, now)
        finally:
            for job in jobs:
                self._running.pop(str(job.id), None)
        await self._move_breakers(done, now)
        _measure(recorded)

    async def renew(self) -> None:
        """Lengthen the leases of the judgements that this worker is making."""
        until = self._clock.now() + timedelta(seconds=limits.JUDGING_LEASE_S)
        if self._running:
            await self._judgements.renew(list(self._running.values()), until)

    async def sweep(self) -> None:
        """Give up judgements that have waited for `JUDGING_WAIT_S`, and say why."""
        now = self._clock.now()
        before = now - timedelta(seconds=limits.JUDGING_WAIT_S)
        async with self._judgements.change() as connection:
            late = await self._judgements.late(connection, before, now)
            versions = await self._registry.by_hash(list({job.version for job in late}))
            for job in late:
                open_breaker = versions[job.version].breaker.state is not BreakerState.CLOSED
                loss = Loss.BREAKER if open_breaker else Loss.BACKLOG
                await give_up(self._stores, connection, [job], loss, now)
        telemetry.JUDGE_WAITING.set(await self._judgements.waiting())

    async def _claim(self, claims_max: int, *, in_process: bool) -> list[Work]:
        rules = await self._rules.working()
        versions = await self._registry.by_hash(list({rule.version_hash for rule in rules}))
        chosen = [
            rule for rule in rules if runs_in_process(versions[rule.version_hash].version) is in_process
        ]
        if not chosen or claims_max <= 0:
            return []
        now = self._clock.now()
        async with self._judgements.change() as connection:
            rooms = await self._rooms(connection, chosen, versions, now)
            jobs = await self._judgements.claim(connection, rooms, now=now, claims_max=claims_max)
        self._running |= {str(job.id): job for job in jobs}
        by_version: defaultdict[VersionHash, list[Job]] = defaultdict(list)
        for job in jobs:
            by_version[job.version].append(job)
        return [Work(versions[version], claimed) for version, claimed in by_version.items()]

    async def _rooms(
        self,
        connection: Transaction,
        rules: Sequence[JudgingRule],
        versions: dict[VersionHash, StoredVersion],
        now: datetime,
    ) -> dict[int, int]:
        """Return for each rule how many judgements may be leased, by breaker and budget."""
        bounded = [rule for rule in rules if rule.settings.budget.bounded]
        leased: dict[int, int] = {}
        spent: dict[int, Spending] = {}
        if bounded:
            ids = [rule.id for rule in bounded]
            await self._rules.lock_budgets(connection)  # two workers must not use the same room
            leased = await self._judgements.leased(connection, ids, now)
            spent = await self._rules.spending(connection, ids, now.astimezone(UTC).date())
        rooms: dict[int, int] = {}
        for rule in rules:
            version = versions[rule.version_hash]
            most = version.breaker.at(now).calls_max(_concurrency(version.version))
            if rule.id in spent:
                running = leased.get(rule.id, 0)
                spare = room(
                    rule.settings.budget,
                    spent[rule.id],
                    leased=running,
                    priced=is_priced(version),
                    cost_per_call=_likely_cost(version),
                )
                most = most if spare is None else min(most, running + spare)
            rooms[rule.id] = most
        return {rule_id: most for rule_id, most in rooms.items() if most > 0}

    async def _score(self, version: StoredVersion, items: Sequence[JudgedText]) -> Sequence[Score]:
        try:
            judge = await self._judges.open(version)
            if runs_in_process(version.version):
                return await judge.score_many(items)
            return [await judge.score(item) for item in items]
        except Exception as error:  # noqa: BLE001 - one bad judge must not stop the others
            _LOG.error("judge_failed", judge=version.name, version=version.hash, exc_info=error)
            detail = f"{type(error).__name__}: {error}"[: limits.JUDGING_REASONS_KEPT]
            return [Unscored(reason=Reason.NOT_CONFIGURED, detail=detail)] * len(items)

    def _result(self, job: Job, score: Score, seconds: float, *, now: datetime, feeds: bool) -> Result:
        """Return the state of a judgement after an attempt: judged, wanted again, or unscored."""
        match score:
            case Judged():
                return Result(
                    id=job.id,
                    state=State.JUDGED,
                    score=score.score,
                    label=score.label,
                    probability=score.probability,
                    detail=_storable(score.reasons),
                    cost_usd=cost_usd(score.attempts),
                    seconds=seconds,
                    at=now,
                    step=job.step,
                    signal="due" if feeds and job.repetition == 0 else None,
                )
            case Unscored():
                retry = None
                if score.reason.transient or score.reason.blocks:
                    jitter = self._random.random()
                    retry = following(job.step, WAITS_S, jitter=jitter, retry_after_s=score.retry_after_s)
                return Result(
                    id=job.id,
                    state=State.UNSCORED if retry is None else State.WANTED,
                    reason=score.reason,
                    detail=_storable(score.detail),
                    cost_usd=cost_usd(score.attempts),
                    seconds=seconds,
                    at=now if retry is None else None,
                    step=job.step if retry is None else retry.step,
                    next_attempt_at=None if retry is None else now + timedelta(seconds=retry.wait_s),
                )
            case Loss():
                return Result(id=job.id, state=State.UNSCORED, reason=score, at=now, step=job.step)

    async def _store(
        self,
        connection: Transaction,
        recorded: Sequence[tuple[Job, Score, Result, StoredVersion]],
        now: datetime,
    ) -> None:
        attempts = [(job, _attempts(score)) for job, score, _, _ in recorded]
        await self._judgements.settle(connection, [result for _, _, result, _ in recorded], attempts)
        ended = [(job, result) for job, _, result, _ in recorded if result.state is not State.WANTED]
        await self._judgements.release(connection, [job.response_key for job, _ in ended])
        first = [(job, result) for job, result in ended if job.repetition == 0]
        outcomes = ((job, result.reason or State.JUDGED.value) for job, result in first)
        for rule_id, counts in sorted(_by_rule(outcomes).items()):
            await self._rules.count(connection, rule_id, counts)
        day = now.astimezone(UTC).date()
        spent: defaultdict[int, Spending] = defaultdict(Spending)
        for job, calls in attempts:
            spent[job.rule_id] = _added(spent[job.rule_id], calls)
        for rule_id, spending in sorted(spent.items()):
            await self._rules.spend(connection, rule_id, day, spending)

    async def _move_breakers(self, done: Sequence[Done], now: datetime) -> None:
        """Open breakers of endpoints that fail, and close those that work again."""
        for version in {work.version.hash: work.version for work, _, _ in done}.values():
            if runs_in_process(version.version):
                continue
            scores = [
                score
                for work, scores, _ in done
                if work.version.hash == version.hash
                for score in scores
                if not isinstance(score, Loss)
            ]
            stored = (await self._registry.by_hash([version.hash])).get(version.hash)
            if stored is None:
                continue
            await self._judges.remember(version)
            moved = self._moved(stored, scores, now)
            if moved is not stored.breaker:
                await self._registry.set_breaker(version.hash, moved)
                described = {"judge": version.name, "version": version.hash, "reason": moved.reason}
                _LOG.warning("judge_breaker", state=moved.state, **described)
            level = _BREAKER_LEVELS[moved.state]
            telemetry.JUDGE_BREAKER.labels(version.name, version.hash).set(level)

    def _moved(self, version: StoredVersion, scores: Sequence[Judged | Unscored], now: datetime) -> Breaker:
        """Return the breaker after some results; the same object if it did not move."""
        recent, breaker = self._recent[version.hash], version.breaker
        for score in scores:
            failure = score if isinstance(score, Unscored) and _endpoint_failed(score.reason) else None
            must_open = recent.add(failed=failure is not None)
            state = breaker.at(now).state
            if failure is None and state is BreakerState.HALF_OPEN:
                breaker = breaker.closed(now)
                recent.clear()
            elif failure is not None and (
                state is BreakerState.HALF_OPEN
                or (state is BreakerState.CLOSED and (must_open or failure.reason.blocks))
            ):
                breaker = breaker.opened(now, failure.reason, retry_after_s=failure.retry_after_s)
                recent.clear()
        return breaker


async def give_up(
    stores: JudgingStores, connection: Transaction, jobs: Sequence[Job], loss: Loss, now: datetime
) -> None:
    """Store locked judgements as unscored."""
    results = [Result(id=job.id, state=State.UNSCORED, reason=loss, at=now) for job in jobs]
    await stores.judgements.settle(connection, results, [])
    await stores.judgements.release(connection, [job.response_key for job in jobs])
    for rule_id, counts in _by_rule((job, loss) for job in jobs if job.repetition == 0).items():
        await stores.rules.count(connection, rule_id, counts)


def runs_in_process(version: JudgeVersion) -> bool:
    """Return whether a version is judged in the worker, in batches and at no cost."""
    return isinstance(version, RuleVersion | LocalVersion)


def _concurrency(version: JudgeVersion) -> int:
    if isinstance(version, RuleVersion | LocalVersion):
        return limits.JUDGING_BATCHES_MAX * limits.JUDGING_BATCH_MAX
    return version.operation.concurrency


def _likely_cost(version: StoredVersion) -> float:
    """Return what a judgement may cost before any was made, in US dollars."""
    definition = version.version
    if isinstance(definition, RuleVersion | LocalVersion) or definition.operation.price is None:
        return 0.0
    characters = len(msgspec.json.encode(definition))
    return definition.operation.price.cost_usd(characters // 4 + 500, 100)


def _judged_text(response: StoredResponse) -> JudgedText:
    return JudgedText(
        response_key=response.response_key,
        prompt=response.prompt,
        response=response.response,
        metadata=response.metadata,
        model=response.model,
    )


def _endpoint_failed(reason: Reason) -> bool:
    return reason.transient or reason.blocks


def _attempts(score: Score) -> Sequence[Attempt]:
    return () if isinstance(score, Loss) else score.attempts


def _added(spending: Spending, calls: Sequence[Attempt]) -> Spending:
    costs = [call.cost_usd for call in calls if call.cost_usd is not None]
    return Spending(
        calls=spending.calls + len(calls),
        unpriced=spending.unpriced + len(calls) - len(costs),
        cost_usd=spending.cost_usd + sum(costs),
        dearest_usd=max(spending.dearest_usd, sum(costs)),
    )


def _by_rule(outcomes: Iterable[tuple[Job, str]]) -> dict[int, "Counter[tuple[int, str]]"]:
    """Return the numbers by rule, and then by variant and outcome."""
    counts: defaultdict[int, Counter[tuple[int, str]]] = defaultdict(Counter)
    for job, outcome in outcomes:
        counts[job.rule_id][job.variant, str(outcome)] += 1
    return counts


def _storable(text: str) -> str:
    """Return a text that PostgreSQL can hold, cut to `JUDGING_REASONS_KEPT` characters."""
    return text[: limits.JUDGING_REASONS_KEPT].replace("\0", "").encode(errors="replace").decode()


def _measure(recorded: Sequence[tuple[Job, Score, Result, StoredVersion]]) -> None:
    for _, score, result, version in recorded:
        outcome = result.state.value if result.state is not State.WANTED else "repeated_later"
        telemetry.JUDGED_RESPONSES.labels(result.reason if outcome == "unscored" else outcome).inc()
        for call in _attempts(score):
            telemetry.JUDGE_CALLS.labels(version.name, "failed" if call.error else "answered").inc()
            telemetry.JUDGE_SECONDS.observe(call.seconds)
            if call.cost_usd is not None:
                telemetry.JUDGE_COST.labels(version.name).inc(call.cost_usd)
