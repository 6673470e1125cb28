"""Validity of quality, the gate of judges, drift and paired comparisons, at every look.

With `full=True` a part has the sizes of the validity table. `full=False` is for tests: a correct
method misses its limits with probability below 1e-6. Simulations take the method under test, so
that a wrong one can be planted.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np

from benchmarks.validity import Parts, Row, Simulated, at_least, at_most, caught, error_limit, generator
from stats.calibration import AgreementTotals, calibrate
from stats.drift import agreement_drift
from stats.errors import InsufficientData
from stats.interval import Interval
from stats.paired import PairedTotals, paired_result
from stats.prediction_powered import (
    JudgedTotals,
    PredictionPoweredMean,
    prediction_powered_mean,
    quality_sequence,
)
from stats.totals import FloatArray, MeanTotals

LOOKS: Final = 20
ALPHA: Final = 0.05


class Stream(NamedTuple):
    """A stream of responses, with labels and scores.

    `good` is the share of good responses, `sensitivity` and `false_alarm` are those of the judge.
    Labels are drawn with probability `rate`, and `harder` times as often where the judge says bad.
    `per_unit` responses of a unit are alike.
    """

    name: str
    good: float
    sensitivity: float = 0.9
    false_alarm: float = 0.25
    rate: float = 0.05
    harder: float = 1.0
    per_unit: int = 1
    n: int = 4_000

    def draw(self, rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray, np.ndarray]:
        """Return scores, labels, inclusion probabilities and units of all responses in order."""
        units = np.arange(self.n) // self.per_unit
        usual = rng.random(self.n // self.per_unit) < self.good
        single = rng.random(self.n) < self.good
        truth = np.where(rng.random(self.n) < 0.7, usual[units], single) if self.per_unit > 1 else single
        score = rng.random(self.n) < np.where(truth, self.sensitivity, self.false_alarm)
        inclusion = np.where(score, self.rate, min(self.rate * self.harder, 1.0))
        human = np.where(rng.random(self.n) < inclusion, truth, np.nan)
        return score.astype(np.float64), human, inclusion, units


STREAMS: Final = (
    Stream("half good", 0.5),
    Stream("90 % good", 0.9),
    Stream("97 % good", 0.97),
    Stream("99 % good", 0.99, rate=0.25),
    Stream("useless judge", 0.7, 0.5, 0.5),
    Stream("judge against people", 0.7, 0.3, 0.8),
    Stream("labels 5 times as often where it says bad", 0.8, harder=5.0),
    Stream("5 responses per unit", 0.7, per_unit=5),
)

Method = Callable[[PredictionPoweredMean], Interval]


def sequence(estimate: PredictionPoweredMean) -> Interval:
    return quality_sequence(estimate, alpha=ALPHA)


def one_look(estimate: PredictionPoweredMean) -> Interval:
    """Return the planted bug: the interval for one look, at every look."""
    return estimate.mean.interval(alpha=ALPHA)


def ever_missed(method: Method, stream: Stream, runs: int, seed: int) -> Simulated:
    """Return the share of runs in which an interval of 20 looks misses the share of good ones."""
    rng, missed = generator(seed), 0
    for _ in range(runs):
        missed += any(not covers for covers in _covers(method, stream, rng))
    return Simulated.share(missed / runs, runs)


def missed_once(stream: Stream, runs: int, seed: int, *, clustered: bool = True) -> Simulated:
    """Return how often the interval for one look misses; without clusters it is a planted bug."""
    rng, missed = generator(seed), 0
    for _ in range(runs):
        judge, human, inclusion, units = stream.draw(rng)
        total = JudgedTotals.from_observations(judge, human, inclusion, units=units if clustered else None)
        interval = one_look(prediction_powered_mean(total))
        missed += not interval.lower <= stream.good <= interval.upper
    return Simulated.share(missed / runs, runs)


def _covers(method: Method, stream: Stream, rng: np.random.Generator) -> Iterator[bool]:
    judge, human, inclusion, units = stream.draw(rng)
    for stop in range(stream.n // LOOKS, stream.n + 1, stream.n // LOOKS):
        part = slice(stop)
        try:
            estimate = prediction_powered_mean(
                JudgedTotals.from_observations(judge[part], human[part], inclusion[part], units=units[part])
            )
            interval = method(estimate)
        except InsufficientData:
            continue
        yield interval.lower <= stream.good <= interval.upper


def quality_rows(*, full: bool) -> Iterator[Row]:
    runs = 400 if full else 60
    limit = error_limit(runs, ALPHA) if full else error_limit(runs, ALPHA, 1e-6)
    streams = STREAMS if full else STREAMS[2::2]
    for seed, stream in enumerate(streams):
        name = f"V40 quality ever missed in 20 looks, {stream.name}"
        yield at_most(name, ever_missed(sequence, stream, runs, 400 + seed), limit)
    missed = ever_missed(one_look, STREAMS[0], runs, 420)
    yield caught("V40 quality, the interval for one look at every look", missed, limit)
    once = error_limit(runs, 0.06) if full else error_limit(runs, 0.06, 1e-6)
    for seed, stream in enumerate((STREAMS[0], *STREAMS[6:])):
        name = f"V41 quality missed at one look, {stream.name}"
        yield at_most(name, missed_once(stream, runs, 430 + seed), once)
    # Whole conversations with labels, so that clusters matter.
    chats = Stream("conversations", 0.7, 0.6, 0.4, rate=0.5, per_unit=20, n=2_000)
    missed = missed_once(chats, runs, 440, clustered=False)
    yield caught("V41 quality, responses of a unit as if independent", missed, once)


def ever_passed(decides: Callable[[AgreementTotals], bool], runs: int, seed: int) -> Simulated:
    """Return how often a judge that repeats exactly 0.8 of one label passes at one of 10 looks."""
    rng, passed = generator(seed), 0
    for _ in range(runs):
        human = rng.integers(0, 2, 400)
        judge = np.where((human == 1) & (rng.random(400) < 0.2), 0, human)
        looks = (
            AgreementTotals.from_observations(human[:n], judge[:n], n_classes=2) for n in range(20, 401, 20)
        )
        passed += any(decides(total) for total in looks)
    return Simulated.share(passed / runs, runs)


def gate(total: AgreementTotals) -> bool:
    return calibrate(total).verdict == "passed"


def plain_recall(total: AgreementTotals) -> bool:
    """Return the planted bug: point estimates above the bar."""
    return min(total.recall(label).mean for label in (0, 1)) > 0.8


def gate_rows(*, full: bool) -> Iterator[Row]:
    runs = 400 if full else 40
    limit = error_limit(runs, ALPHA) if full else error_limit(runs, ALPHA, 1e-6)
    yield at_most("V42 a judge at the bar ever passes the gate", ever_passed(gate, runs, 450), limit)
    yield caught("V42 gate by point estimates", ever_passed(plain_recall, runs, 451), limit)


def ever_drifted(after: float, runs: int, seed: int, *, days: int = 60) -> tuple[Simulated, float]:
    """Return the share of alarms in days of 10 labels, and the median delay in labels.

    Agreement is 0.92 at calibration (100 labels) and for 30 days, then `after`.
    """
    rng, delays = generator(seed), []
    for _ in range(runs):
        calibrated = MeanTotals.from_observations((rng.random(100) < 0.92).astype(np.float64))
        rates = np.where(np.arange(days) < 30, 0.92, after)[:, None]
        later = [MeanTotals.from_observations(day * 1.0) for day in rng.random((days, 10)) < rates]
        looks: Sequence[int] = range(1, days + 1)
        alarm = next((n for n in looks if agreement_drift(calibrated, later[:n], alpha=ALPHA).drifted), None)
        delays.append(np.inf if alarm is None else 10.0 * (alarm - 30))
    alarms = np.isfinite(delays).mean()
    return Simulated.share(float(alarms), runs), float(np.median(delays))


def drift_rows(*, full: bool) -> Iterator[Row]:
    runs = 400 if full else 30
    limit = error_limit(runs, ALPHA) if full else error_limit(runs, ALPHA, 1e-6)
    alarms, _ = ever_drifted(0.92, runs, 460)
    yield at_most("V43 drift alarms without drift, 60 looks", alarms, limit)
    alarms, delay = ever_drifted(0.5, runs, 461)
    yield at_least("V43 drift from .92 to .5 found within 300 labels", alarms, 0.95)
    yield at_most("V43 median labels until it is found", delay, 60.0)


def ever_decided(method: Callable[[PairedTotals], bool], runs: int, seed: int) -> Simulated:
    """Return how often two equal variants differ at one of 50 looks of 20 pairs."""
    rng, decided = generator(seed), 0
    for _ in range(runs):
        counts = rng.multinomial(20, [0.35, 0.35, 0.3], size=50).tolist()
        looks = itertools.accumulate(PairedTotals(*row) for row in counts)
        decided += any(method(total) for total in looks)
    return Simulated.share(decided / runs, runs)


def always_valid(total: PairedTotals) -> bool:
    return paired_result(total, alpha=ALPHA).decision != "undecided"


def sign_test(total: PairedTotals) -> bool:
    """Return the planted bug: a sign test for one look, at every look."""
    return abs(total.wins - total.losses) > 1.96 * math.sqrt(total.decided.n)


def paired_rows(*, full: bool) -> Iterator[Row]:
    runs = 400 if full else 40
    limit = error_limit(runs, ALPHA) if full else error_limit(runs, ALPHA, 1e-6)
    yield at_most("V44 equal variants ever decided, paired", ever_decided(always_valid, runs, 470), limit)
    yield caught("V44 paired, the sign test at every look", ever_decided(sign_test, runs, 471), limit)


PARTS: Parts = {
    "V40, V41: quality": quality_rows,
    "V42: gate of judges": gate_rows,
    "V43: drift of judges": drift_rows,
    "V44: paired": paired_rows,
}
