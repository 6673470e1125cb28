"""An experiment in this process from draw to readout, by the functions of worker and server.

`bucketing.draw` draws; `rewards.resolve` and `rewards.differences` make rewards and totals;
`allocation.allocate` makes shares; `analyze` reads the result of `Stored.observed`. Only engines
and sockets are missing, so an A/A test can run hundreds of times with a look after every batch.
`tests/acceptance/test_whole_path.py` sends the same events to a server and finds the same readout.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

import msgspec
import numpy as np

from app.allocation.model import AllocationPoint, VariantTotals, allocate
from app.analysis.observed import Observed
from app.analysis.readout.analyze import analyze
from app.analysis.readout.model import Stored, measured_of
from app.analysis.readout.record import Readout
from app.analysis.stored import EpochTotals, StratumCell, UnitCell
from app.assignment import bucketing
from app.experiments.metrics import Metric, Proportion
from app.experiments.model import Definition, Experiment, Running, Variant
from app.experiments.plan import AnalysisPlan, FixedHorizon
from app.experiments.policies import FixedPolicy, Policy, ThompsonPolicy
from app.experiments.reward import Reward
from app.ledger.rewards.model import ASSIGNMENT, GIVEN, NONE, Given, Rule, differences, resolve
from app.ledger.units.measures import Measures, cells, measures_of
from app.ledger.units.model import Heads, Units, measure, totals_by_minute, totals_by_stratum
from app.ledger.units.strata import Shares, of_rewards
from benchmarks.validity import Parts, Row, Simulated, at_most, caught, error_limit, generator, within

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
BATCH_US: Final = 1_000_000
PLAN: Final = AnalysisPlan()
NAIVE: Final = AnalysisPlan(estimator=FixedHorizon())
"""The planted bug: Welch's interval at every look, as if there were one look and a fixed split."""


class Signal(NamedTuple):
    """One signal: number of its assignment, value and time."""

    owner: int
    value: float
    at_us: int


class WholePath:
    """One running experiment with the signal `score`; assignments are numbered by arrival."""

    def __init__(
        self,
        policy: Policy,
        *,
        n_variants: int = 2,
        silence: float | None = None,
        metrics: tuple[Metric, ...] = (),
        horizon_s: float = 1e-6 * 5 * BATCH_US,
    ) -> None:
        variants = tuple(Variant(f"v{k}", control=k == 0) for k in range(n_variants))
        reward = Reward(signals={"score": 1.0}, horizon_s=horizon_s, silence=silence)
        self.experiment = Experiment(
            id=1,
            definition=Definition(key="aa", variants=variants, policy=policy, reward=reward, metrics=metrics),
            state=Running(START),
            salt=bytes(16),
            epoch=1,
            revision=1,
            created_at=START,
            updated_at=START,
        )
        self.log = np.zeros(0, ASSIGNMENT)
        self.totals: dict[tuple[int, int], VariantTotals] = {}
        self.points: list[AllocationPoint] = []
        self._signals = np.zeros(0, GIVEN)
        self._rules = {1: Rule.of(reward, by_unit=False)}
        self._now_us = 0
        self.allocate()

    def allocate(self) -> None:
        """Compute shares from the totals, and add a version if they moved."""
        weights = allocate(self.experiment.definition, self._variants())
        epoch, latest = self.experiment.epoch, self.points[-1] if self.points else None
        if latest is None or (latest.epoch, latest.weights) != (epoch, weights):
            self.points.append(AllocationPoint(len(self.points) + 1, epoch, START, weights))

    def change(self, policy: Policy) -> None:
        """Change the rule of allocation, which opens an epoch."""
        definition = msgspec.structs.replace(self.experiment.definition, policy=policy)
        epoch = self.experiment.epoch + 1
        self.experiment = msgspec.structs.replace(self.experiment, definition=definition, epoch=epoch)
        self.allocate()

    def assign(self, n: int, at_us: int, rng: np.random.Generator) -> np.ndarray:
        """Draw variants for `n` units and return them; the exposures are not in the totals yet."""
        sums = bucketing.cumulative(self.points[-1].weights)
        bits = rng.integers(bucketing.WHOLE, size=n).tolist()
        return self.expose([bucketing.draw(number, sums) for number in bits], at_us)

    def expose(
        self, variants: Sequence[int], at_us: int, propensities: Sequence[float] | None = None
    ) -> np.ndarray:
        """Assignments that a server has drawn; without propensities by the shares of the newest version."""
        new = np.zeros(len(variants), ASSIGNMENT)
        new["experiment_id"], new["epoch"] = 1, self.experiment.epoch
        new["variant"], new["exposed"], new["reward"] = variants, True, NONE
        shares = np.array(self.points[-1].shares)
        new["propensity"] = shares[list(variants)] if propensities is None else propensities
        new["assigned_us"], new["deadline_us"] = at_us, at_us + self._rules[1].horizon_us
        self.log = np.concatenate([self.log, new])
        return new["variant"]

    def commit(self, new_signals: Sequence[Signal], now_us: int) -> None:
        """Apply new exposures, new signals and passed horizons, as the ledger does."""
        self._now_us = now_us
        rows = [(signal.owner, 0, 0, signal.at_us, signal.value) for signal in new_signals]
        self._signals = np.concatenate([self._signals, np.array(rows, GIVEN)])
        touched = ~self.log["counted"]
        touched[[signal.owner for signal in new_signals]] = True
        if self._rules[1].silence != NONE:
            touched |= (self.log["outcome"] == 0) & (self.log["deadline_us"] <= now_us)
        chosen = np.flatnonzero(touched)
        signals = self._signals[touched[self._signals["owner"]]].copy()
        signals["owner"] = np.searchsorted(chosen, signals["owner"])
        before = self.log[chosen]
        after = resolve(before, Given(signals, ["score"]), self._rules, silent_until_us=now_us)
        for _, epoch, variant, *added in differences(before, after):
            total = self.totals.get((epoch, variant), VariantTotals())
            sums = (a + b for a, b in zip(msgspec.structs.astuple(total), added, strict=True))
            self.totals[epoch, variant] = VariantTotals(*sums)
        after["counted"] = True
        self.log[chosen] = after

    def observed(self) -> Observed:
        """Return the input of the readout."""
        shares = {
            epoch: points[0].shares if len(points) == 1 else None
            for epoch in {point.epoch for point in self.points}
            if (points := [point for point in self.points if point.epoch == epoch])
        }
        stored = Stored(
            draws=(),
            totals=self._variants(),
            units=self._units(),
            by_epoch=[EpochTotals(*key, total) for key, total in sorted(self.totals.items())],
            totals_as_of=None,
            read_at=START,
            wanted=0,
            latest=self.points[-1],
            history=self.points,
            epoch_shares=shares,
            strata=self._strata(),
        )
        return stored.observed(self.experiment)

    def readout(self, observed: Observed | None = None, plan: AnalysisPlan = PLAN) -> Readout:
        """Return the readout of the status, or that of another plan or other totals."""
        metrics = measured_of(self.experiment).metrics
        return analyze(plan, metrics, observed or self.observed())

    def _units(self) -> list[UnitCell]:
        """Return the cells of units, with each assignment as a unit; none without metrics."""
        definition = self.experiment.definition
        measures = measures_of(definition.metrics, definition.plan, definition.stickiness)
        if measures is None:
            return []
        found = cells(totals_by_minute(1, self._measured(measures), measures))
        return [UnitCell(*key[1:], totals) for key, totals in sorted(found.items())]

    def _measured(self, measures: Measures) -> Units:
        given = Given(self._signals, ["score"])
        heads = Heads.of([None] * len(self.log), measures)
        numbers = np.arange(len(self.log))
        return measure(self.log, numbers, given, heads, measures, silent_until_us=self._now_us)

    def _strata(self) -> list[StratumCell]:
        """Units by the shares of their draws."""
        definition = self.experiment.definition
        if isinstance(definition.policy, FixedPolicy):
            return []
        measures = measures_of(definition.metrics, definition.plan, definition.stickiness)
        shares = Shares({self.experiment.epoch: (len(definition.variants), 0)})
        if measures is None:
            nothing = self.log.copy()
            nothing["reward"] = NONE
            found = of_rewards(nothing, self.log, {1: shares})
        else:
            found = totals_by_stratum(1, shares.applied(self._measured(measures), self.log), measures)
        return [StratumCell(*key[1:], totals) for key, totals in sorted(found.items())]

    def _variants(self) -> list[VariantTotals]:
        variants = [VariantTotals()] * len(self.experiment.definition.variants)
        for (_, variant), total in self.totals.items():
            so_far = msgspec.structs.astuple(variants[variant])
            pairs = zip(so_far, msgspec.structs.astuple(total), strict=True)
            variants[variant] = VariantTotals(*(a + b for a, b in pairs))
        return variants


def decided(readout: Readout) -> bool:
    """Return whether a primary metric decides that a variant differs from the control."""
    verdicts = [
        variant.verdict
        for metric in readout.metrics
        if metric.role == "primary"
        for variant in metric.variants
    ]
    return "better" in verdicts or "harm" in verdicts


def aa_replay(
    path: WholePath, rng: np.random.Generator, *, rate: float, batches: int, size: int
) -> tuple[bool, bool]:
    """Replay equal variants with a look after every batch.

    Returns whether the readout ever decided, and whether the naive one did. Nine in ten assignments
    get a thumb. Half of the thumbs arrive a batch later, and one in ten is replaced by another
    thumb.
    """
    late: list[Signal] = []
    ever, naive_ever = False, False
    for batch in range(batches):
        now_us = batch * BATCH_US
        first = len(path.log)
        path.assign(size, now_us, rng)
        scores = (rng.random((size, 2)) < rate).astype(float)
        rated, waits, revised = rng.random((3, size)) < [[0.9], [0.5], [0.1]]
        arrived, late = late, []
        for k in np.flatnonzero(rated).tolist():
            (late if waits[k] else arrived).append(Signal(first + k, scores[k, 0], now_us))
            if revised[k]:
                late.append(Signal(first + k, scores[k, 1], now_us + 1))
        path.commit(arrived, now_us)
        path.allocate()
        ever = ever or decided(path.readout())
        if not naive_ever:
            fixed = msgspec.structs.replace(path.observed(), adaptive=False)
            plan = msgspec.structs.replace(NAIVE, expected_units=fixed.units())
            naive_ever = decided(path.readout(fixed, plan))
    return ever, naive_ever


def aa_rates(
    policy: Policy,
    *,
    runs: int,
    batches: int,
    size: int,
    rate: float,
    seed: int,
    n_variants: int = 2,
    silence: float | None = None,
) -> tuple[float, float]:
    """Return the shares of A/A tests in which the readout, and the naive one, ever decided."""
    rng = generator(seed)
    decisions = [
        aa_replay(
            WholePath(policy, n_variants=n_variants, silence=silence),
            rng,
            rate=rate,
            batches=batches,
            size=size,
        )
        for _ in range(runs)
    ]
    ever, naive = np.mean(decisions, axis=0)
    return float(ever), float(naive)


def aa_rows(*, full: bool) -> Iterator[Row]:
    """Yield rows of A/A tests under Thompson sampling with a look after every batch."""
    runs = 400 if full else 40
    batches = 40
    settings = {950: (0.5, 2, None), 951: (0.1, 2, None), 952: (0.5, 3, None), 953: (0.5, 2, 0.0)}
    # The last one uses every step of the path and misleads the naive method most.
    for seed, (rate, n_variants, silence) in list(settings.items())[0 if full else -1 :]:
        silent = "" if silence is None else ", silence counts 0"
        name = f"A/A, Thompson, {n_variants} variants at {rate:g}{silent}, {batches} looks"
        ever, naive = aa_rates(
            ThompsonPolicy(),
            runs=runs,
            batches=batches,
            size=50,
            rate=rate,
            seed=seed,
            n_variants=n_variants,
            silence=silence,
        )
        limit = error_limit(runs, PLAN.alpha, 1e-3 if full else 1e-6)
        yield at_most(f"{name}: ever decided", Simulated.share(ever, runs), limit)
        yield caught(f"{name}: Welch at every look", Simulated.share(naive, runs), limit)


# A canary that ramps up while the baseline drifts


RAMP: Final = (0.01, 0.05, 0.25)
"""Shares of the canary, one epoch each."""
DRIFT: Final = (0.30, 0.45, 0.60)
"""Rate of success in each epoch, the same for both variants."""


SOLVED: Final = Metric(key="solved", measure=Proportion("score"), role="primary")


def ramp(rng: np.random.Generator, *, effect: float = 0.0, size: int = 4_000) -> WholePath:
    """Send the traffic of each stage in ten batches, under a fixed policy with its share."""
    path: WholePath | None = None
    for stage, (share, rate) in enumerate(zip(RAMP, DRIFT, strict=True)):
        policy = FixedPolicy({"v0": 1 - share, "v1": share})
        if path is None:
            path = WholePath(policy, metrics=(SOLVED,))
        else:
            path.change(policy)
        for batch in range(10):
            now_us, first = (10 * stage + batch) * BATCH_US, len(path.log)
            variants = path.assign(size // 10, now_us, rng)
            scores = (rng.random(len(variants)) < rate + effect * variants).astype(float)
            signals = [Signal(first + k, score, now_us) for k, score in enumerate(scores.tolist())]
            path.commit(signals, now_us)
    assert path is not None
    return path


def pooled(observed: Observed) -> Observed:
    """Pool the epochs as if the split were constant, which is the planted bug."""
    cells = [msgspec.structs.replace(cell, epoch=1) for cell in observed.cells]
    return msgspec.structs.replace(observed, cells=cells)


def ramp_rows(*, full: bool) -> Iterator[Row]:
    """Yield rows on Simpson's paradox, in our estimate and in the pooled one, after each ramp."""
    rng, runs = generator(960), 400 if full else 12
    ours, naive = 0, 0
    effects: list[float] = []
    naive_effects: list[float] = []
    for _ in range(runs):
        path = ramp(rng)
        observed = path.observed()
        for data, measured_effects in ((observed, effects), (pooled(observed), naive_effects)):
            readout = path.readout(data)
            effect = readout.metrics[-1].variants[1].effect
            assert effect is not None
            measured_effects.append(effect)
            if decided(readout):
                ours, naive = (ours + 1, naive) if data is observed else (ours, naive + 1)
    limit = error_limit(runs, PLAN.alpha, 1e-3 if full else 1e-6)
    yield at_most(
        "ramp 1, 5, 25 % under a drift, no effect: ever decided", Simulated.share(ours / runs, runs), limit
    )
    mean = Simulated.mean(effects)
    yield within("ramp: mean effect", mean, -5 * mean.error, 5 * mean.error)
    yield caught("ramp: pooled over epochs", Simulated.share(naive / runs, runs), limit)
    yield caught("ramp: pooled over epochs, mean effect", Simulated.mean(naive_effects), 0.05)


PARTS: Parts = {"whole path: A/A": aa_rows, "whole path: ramp": ramp_rows}
