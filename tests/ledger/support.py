"""Experiments, events and a model of the ledger that knows nothing of SQL."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from random import Random
from typing import Any, NamedTuple

import msgspec
import numpy as np
import psycopg

from app.assignment import assignment_id, exposure
from app.assignment.exposure import Exposure
from app.core.postgres import psycopg_dsn
from app.experiments.model import Definition, Variant
from app.experiments.policies import FixedPolicy, Policy
from app.experiments.reward import Reward
from app.feedback import entry
from app.feedback.entry import SignalsEntry, UnitSignal
from app.feedback.limits import CLOCK_TOLERANCE_S
from app.feedback.model import Source
from app.ledger.learning.model import Key
from app.ledger.log.batch import StreamEntry
from app.ledger.rewards.model import NONE
from app.ledger.units.model import Units
from tests.ledger.composite import composite_reward

TOLERANCE_MS = round(CLOCK_TOLERANCE_S * 1_000)
T0_MS = 1_790_000_039_940  # 60 ms before a minute ends
SALT = bytes(16)


def moment(ms: int) -> datetime:
    """`ms` after T0."""
    return datetime.fromtimestamp(T0_MS / 1_000, UTC) + timedelta(milliseconds=ms)


class Assigned(NamedTuple):
    """One assignment of the tests. `at_ms` counts from T0_MS."""

    experiment_id: int
    unit: int
    number: int
    at_ms: int
    variant: int
    epoch: int = 1
    unrecorded: bool = False
    policy_version: int = 1
    propensity: float = 0.5

    @property
    def body(self) -> bytes:
        return assignment_id.body(
            key_id=1,
            flags=int(self.unrecorded),
            variant=self.variant,
            experiment_id=self.experiment_id,
            epoch=self.epoch,
            policy_version=self.policy_version,
            id=assignment_id.uuid7(T0_MS + self.at_ms, self.number),
            propensity=self.propensity,
            unit_hash=self.unit,
        )


class Said(NamedTuple):
    """One signal, by assignment or, where that is an int, by unit."""

    about: Assigned | int
    experiment_id: int
    signal: str
    source: Source
    value: float
    at_ms: int
    id: str | None = None


def exposures(assigned: Iterable[Assigned]) -> StreamEntry:
    rows = [Exposure(one.body, f"unit-{one.unit}", {"number": one.number}) for one in assigned]
    return StreamEntry("", exposure.KIND, len(rows), exposure.encode(rows))


def signals(said: Iterable[Said], received_at_ms: int = 0) -> StreamEntry:
    said = list(said)
    direct = [one for one in said if isinstance(one.about, Assigned)]
    made = SignalsEntry(
        T0_MS + received_at_ms,
        b"".join(one.about.body for one in direct if isinstance(one.about, Assigned)),
        [one.signal for one in direct],
        bytes([one.source for one in direct]),
        b"".join(entry.VALUES.type(one.value).tobytes() for one in direct),
        b"".join(entry.TIMES.type((T0_MS + one.at_ms) * 1_000).tobytes() for one in direct),
        [one.id for one in direct],
        [
            UnitSignal(
                one.experiment_id,
                one.about,
                one.signal,
                int(one.source),
                one.value,
                (T0_MS + one.at_ms) * 1_000,
                one.id,
            )
            for one in said
            if isinstance(one.about, int)
        ],
    )
    return StreamEntry("", entry.KIND, made.n, entry.encode(made))


def numbered(entries: Sequence[StreamEntry], start: int = 1) -> list[StreamEntry]:
    return [item._replace(id=f"{T0_MS + number}-0") for number, item in enumerate(entries, start)]


def definition(key: str, reward: Reward) -> Definition:
    return Definition(
        key=key,
        variants=(Variant("control", control=True), Variant("other")),
        policy=FixedPolicy({"control": 0.5, "other": 0.5}),
        reward=reward,
    )


def create_experiment(database_url: str, key: str, reward: Reward) -> int:
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        row = connection.execute(
            "INSERT INTO experiments (key, definition, state, salt) VALUES (%s, %s, %s, %s) RETURNING id",
            (key, msgspec.json.encode(definition(key, reward)).decode(), '{"kind": "running"}', SALT),
        ).fetchone()
        assert row is not None
        return int(row[0])


Totals = dict[tuple[int, int, int], tuple[int, int, int, int, int]]


def stored_totals(database_url: str) -> Totals:
    """(experiment, epoch, variant) -> assignments, rewards, censored, sum, sum of squares."""
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        rows = connection.execute(
            "SELECT experiment_id, epoch, variant, assignments, rewards, censored, reward_sum,"
            " reward_square_sum::text FROM totals"
        ).fetchall()
    return {row[:3]: (*row[3:7], int(row[7])) for row in rows}


def open_epoch(database_url: str, experiment_id: int, epoch: int, policy: Policy) -> None:
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        connection.execute(
            "INSERT INTO epochs (experiment_id, epoch, policy) VALUES (%s, %s, %s)",
            (experiment_id, epoch, msgspec.json.encode(policy).decode()),
        )


def units(
    sums: Sequence[Sequence[int]],
    *,
    covariates: Sequence[Sequence[int]] | None = None,
    **columns: Any,
) -> Units:
    """Units of the first epoch, variant and segment; `columns` are those of all of them, or of each."""
    given = {"epochs": 1, "variants": 0, "segments": 0, "crossed": False, "minutes": NONE}
    given |= {"strata": NONE, "weights": 0} | columns
    heads = {name: np.broadcast_to(np.array(value), len(sums)).copy() for name, value in given.items()}
    known = np.zeros((len(sums), 0), np.int64) if covariates is None else np.array(covariates, np.int64)
    return Units(**heads, covariates=known, sums=np.array(sums, np.int64))


def stored_states(database_url: str) -> dict[tuple[int, str], Counter[str]]:
    """What has become of signals, as `Model.states` has it."""
    found = rows(
        database_url,
        "SELECT experiment_id, signal, counted, waiting, unknown_unit, late, early FROM signal_totals",
    )
    names = ("counted", "waiting", "unknown_unit", "late", "early")
    pairs = ((row[:2], Counter(dict(zip(names, row[2:], strict=True)))) for row in found)
    return {key: states for key, states in pairs if states.total()}


def stored_learned(database_url: str) -> dict[Key, bytes]:
    """What policies learned of (experiment, epoch, variant, part)."""
    found = rows(database_url, "SELECT experiment_id, epoch, variant, part, body FROM policy_totals")
    return {row[:4]: row[4] for row in found}


def rows(database_url: str, statement: str) -> list[Any]:
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        return connection.execute(statement).fetchall()  # type: ignore[call-overload]


def execute(database_url: str, statement: str) -> None:
    with psycopg.connect(psycopg_dsn(database_url)) as connection:
        connection.execute(statement)  # type: ignore[call-overload]


class Model:
    """The rewards that a set of exposures and signals must lead to, in plain Python."""

    def __init__(self, rewards: dict[int, Reward]) -> None:
        self._rewards = rewards

    def totals(self, exposed: Iterable[Assigned], said: Iterable[Said], silent_until_ms: int) -> Totals:
        totals: dict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0] * 5)
        for one, reward in self.rewards(exposed, said, silent_until_ms):
            total = totals[one.experiment_id, one.epoch, one.variant]
            total[0] += 1
            if reward == "censored":
                total[2] += 1
            elif reward is not None:
                total[1] += 1
                total[3] += reward
                total[4] += reward**2
        return {key: tuple(total) for key, total in totals.items()}  # type: ignore[misc]

    def rewards(
        self, exposed: Iterable[Assigned], said: Iterable[Said], silent_until_ms: int
    ) -> Iterator[tuple[Assigned, Any]]:
        """Of each assignment: nanos, "censored", or None while it is pending."""
        given = self.given(exposed, said)
        for one in set(exposed):
            yield one, self._reward(one, given[one], silent_until_ms)

    def given(self, exposed: Iterable[Assigned], said: Iterable[Said]) -> defaultdict[Assigned, list[Said]]:
        """The signals of each assignment, those by unit at the unit's latest one that is not after them."""
        of_unit = defaultdict(list)
        for one in set(exposed):
            of_unit[one.experiment_id, one.unit].append(one)
        given: defaultdict[Assigned, list[Said]] = defaultdict(list)
        for signal in _once(said):
            if isinstance(signal.about, Assigned):
                given[signal.about].append(signal)
                continue
            owner = _owner(of_unit[signal.experiment_id, signal.about], signal)
            if owner is not None:
                given[owner].append(signal)
        return given

    def states(
        self, exposed: Iterable[Assigned], said: Iterable[Said]
    ) -> dict[tuple[int, str], Counter[str]]:
        """What has become of the logged signals: by experiment and name, how many are in each state."""
        exposed = set(exposed)
        found: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
        for signal in _logged(said, self._rewards):
            key = signal.experiment_id, signal.signal
            owner = signal.about
            if not isinstance(owner, Assigned):
                units = [one for one in exposed if (one.experiment_id, one.unit) == (key[0], signal.about)]
                owner = _owner(units, signal)
            if owner is None:
                found[key]["unknown_unit"] += 1
            elif signal.at_ms > owner.at_ms + self._rewards[key[0]].horizon_s * 1_000:
                found[key]["late"] += 1
            elif signal.at_ms < owner.at_ms - TOLERANCE_MS:
                found[key]["early"] += 1
            else:
                found[key]["counted" if owner in exposed else "waiting"] += 1
        return found

    def _reward(self, one: Assigned, said: list[Said], silent_until_ms: int) -> Any:
        rule = self._rewards[one.experiment_id]
        deadline_ms = one.at_ms + rule.horizon_s * 1_000
        newest: dict[tuple[str, Source], tuple[int, float]] = {}
        for signal in said:
            in_time = one.at_ms - TOLERANCE_MS <= signal.at_ms <= deadline_ms
            if signal.signal in rule.signals and in_time:
                key = signal.signal, signal.source
                newest[key] = max(newest.get(key, (-(10**15), 0.0)), (signal.at_ms, signal.value))
        if rule.is_composite:
            composite = composite_reward(rule, [(name, *newest[name, source]) for name, source in newest])
            if composite is not None:
                return composite
            newest = {}
        if not newest:
            if deadline_ms > silent_until_ms:
                return None
            return "censored" if rule.silence is None else _nano(rule.silence, Fraction(1))
        low, high = map(Fraction, map(str, rule.range))
        amounts = [(at, value, _nano(value, high - low)) for at, value in newest.values()]
        combined = {
            "sum": sum(amount for _, _, amount in amounts),
            "max": max(amount for _, _, amount in amounts),
            "last": max(amounts)[2],
        }[rule.combine]
        return min(max(combined - _nano(float(low), high - low), 0), 10**9)


def assignment_order(one: Assigned) -> tuple[int, int]:
    return one.at_ms, one.number


def _owner(of_unit: Sequence[Assigned], signal: Said) -> Assigned | None:
    """The unit's latest assignment that is not after a signal, else its first within the tolerance."""
    earlier = [one for one in of_unit if one.at_ms <= signal.at_ms]
    if earlier:
        return max(earlier, key=assignment_order)
    soon = [one for one in of_unit if one.at_ms <= signal.at_ms + TOLERANCE_MS]
    return min(of_unit, key=assignment_order) if soon else None


def _logged(said: Iterable[Said], rewards: dict[int, Reward]) -> list[Said]:
    """One event of each key of the log: repeats and revisions are no further rows."""
    kept: dict[Any, Said] = {}
    for one in _once(said):
        key: Any = one.experiment_id, one.about, one.id
        if one.id is None and isinstance(one.about, Assigned):
            deadline_ms = one.about.at_ms + rewards[one.experiment_id].horizon_s * 1_000
            timely = (one.at_ms > deadline_ms, one.at_ms < one.about.at_ms - TOLERANCE_MS)
            key = one.experiment_id, one.about, one.signal, one.source, timely
        elif one.id is None:
            key = one.experiment_id, one.about, one.signal, one.source, one.at_ms
        kept.setdefault(key, one)
    return list(kept.values())


def _once(said: Iterable[Said]) -> list[Said]:
    """Events with a client's id count once."""
    kept: dict[Any, Said] = {}
    for number, one in enumerate(said):
        kept.setdefault((one.experiment_id, one.about, one.id) if one.id else number, one)
    return list(kept.values())


def _nano(value: float, width: Fraction) -> int:
    """In billionths of the width, halves away from zero."""
    exact = Fraction(str(value)) * 10**9 / width
    return int(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)


def shuffled(items: Sequence[Any], random: Random) -> list[Any]:
    return random.sample(list(items), len(items))
