"""Drift of a judge: whether it agrees with people less than when it was calibrated.

People go on to label a few responses. Each label either agrees with the judge's or not. The test
runs at every label, and the probability that a judge that has not changed ever raises an alarm is
at most alpha.

A plain test of all labels since calibration reacts late: a thousand good ones hide the first
hundred bad ones. So one test starts with every period, and their evidence is averaged with weights
1 / (s (s + 1)) that sum to 1. The average of e-processes is an e-process, and the test that started
when the judge changed contributes its evidence at a price of 2 log(s) only.
"""

import math
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from scipy import special

from stats import checks
from stats.bounded import bounded_sequence, log_beta_mixture
from stats.eprocess import EValue
from stats.errors import InsufficientData
from stats.totals import FloatArray, MeanTotals

LABELS_EXPECTED: Final = 100
_PRIOR_WEIGHT: Final = 10.0


class Drift(msgspec.Struct, frozen=True):
    """Evidence that the agreement is now below what calibration proved.

    `reference` is the agreement that calibration proved. `since` is the position of the period at
    which the change most likely began, None without labels after calibration. Keep the evidence of
    earlier looks: an alarm is not taken back.
    """

    reference: float
    evidence: EValue
    drifted: bool
    since: int | None


def agreement_drift(calibrated: MeanTotals, later: Sequence[MeanTotals], *, alpha: float) -> Drift:
    """Test whether a judge agrees with people less than it did when it was calibrated.

    `calibrated` are totals of agreements (1 or 0, or shares per unit) until calibration, `later`
    those of each period since, in order. Half of alpha pays for the reference, a lower confidence
    bound of the calibrated agreement; the other half for the test against it. Both hold at every
    look. Periods may be single labels. A unit with several labels in a period is one observation:
    its share of agreements.

    For a recall, pass only the labels of that kind; alpha is then to be divided by their number.

    Worked by hand: 95 of 100 agree at calibration, so the reference is 0.847 at alpha / 2 = 0.025.
    Without later labels the evidence is 1, and there is no drift.

    Raises InsufficientData without calibrated labels; InvalidInput unless alpha is in (0, 1) and
    all means are within [0, 1].

    Source: Shin, Ramdas & Rinaldo (2024), NEJSDS 2(2), e-detectors, for starting a test in each
    period; we average with weights that sum to 1, so that the probability of an alarm is bounded.
    """
    checks.open_unit(alpha, "alpha")
    if not calibrated.n:
        raise InsufficientData("needs at least 1 label from calibration, has 0")
    reference = bounded_sequence(
        calibrated, alpha=alpha / 2, tuned_to=LABELS_EXPECTED, alternative="greater"
    ).lower
    for period in later:
        checks.closed_unit(period.mean, "mean")
    n = np.array([period.n for period in later], dtype=np.float64)
    agreed = n * np.array([period.mean for period in later], dtype=np.float64)
    if not n.sum() or reference <= 0:
        return Drift(reference, EValue(0.0), drifted=False, since=None)
    ratios = _log_ratios(agreed, n, reference)
    start = np.arange(1, len(n) + 1)
    # The tests that have not started yet hold the other part of the weights, 1 / (periods + 1).
    parts = np.append(ratios - np.log(start * (start + 1.0)), -math.log(len(n) + 1))
    evidence = float(special.logsumexp(parts))
    return Drift(
        reference=reference,
        evidence=EValue(evidence),
        drifted=evidence >= -math.log(alpha / 2),
        since=int(np.argmax(ratios)),
    )


def _log_ratios(agreed: FloatArray, n: FloatArray, reference: float) -> FloatArray:
    """Return the log evidence of the test that started with each period, shape (periods,)."""
    tails = [np.cumsum(values[::-1])[::-1] for values in (agreed, n)]
    return np.array(
        [
            float(log_beta_mixture(x, size, reference, weight=_PRIOR_WEIGHT, alternative="less"))
            for x, size in zip(*tails, strict=True)
        ]
    )
