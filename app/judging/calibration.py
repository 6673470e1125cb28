"""Judgements beside the labels of people, for the calibration gate and the test of drift. Pure.

Human labels and scores of judges lie in [0, 1]. Both become classes: those of the judge's label
set, or below and above one half if its scores are continuous.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.judging.judges.labels import PASS_OR_FAIL, LabelSet
from app.judging.judges.model import JudgeVersion
from app.judging.model import Judgement
from app.reviews.model import Label, Queue
from stats.calibration import AgreementTotals, Calibration, calibrate, held_out
from stats.drift import Drift, agreement_drift
from stats.errors import InsufficientData
from stats.estimate import Estimate
from stats.length_bias import length_bias, length_totals
from stats.totals import MeanTotals

DRIFT_ERROR: Final = 0.01
"""Probability that a judge which has not changed ever loses its trust."""

_THOUSAND: Final = 1_000.0


class Pair(NamedTuple):
    """A response that people and a judge have scored, with the probability that both did."""

    unit_hash: int
    human: float
    judge: float
    inclusion: float
    characters: int
    labelled_at: datetime


def pairs(labels: Iterable[Label], judgements: Iterable[Judgement]) -> list[Pair]:
    """Return pairs of complete labels of the sample and first judgements, by time of label."""
    scores: Mapping[object, Judgement] = {
        judgement.response_key: judgement
        for judgement in judgements
        if judgement.repetition == 0 and judgement.score is not None
    }
    matched = []
    for label in labels:
        judgement = scores.get(label.response_key)
        usable = label.queue is Queue.SAMPLE and label.complete and label.inclusion_probability is not None
        if judgement is not None and judgement.score is not None and usable:
            inclusion = (label.inclusion_probability or 1.0) * judgement.inclusion_probability
            matched.append(
                Pair(
                    label.unit_hash,
                    label.score,
                    judgement.score,
                    inclusion,
                    judgement.characters,
                    label.at,
                )
            )
    return sorted(matched, key=lambda pair: pair.labelled_at)


def classes_of(version: JudgeVersion) -> LabelSet:
    """Return the label set in which a version is compared with people."""
    return version.label_set or PASS_OR_FAIL


def gate(version: JudgeVersion, matched: Sequence[Pair]) -> Calibration:
    """Return the decision of the gate on the held-out units, which the prompt was not tuned on."""
    labels = classes_of(version)
    units = np.array([pair.unit_hash for pair in matched], np.int64)
    kept = held_out(units) if len(matched) else np.zeros(0, np.bool_)
    human, judge = _classes(labels, matched)
    total = AgreementTotals.from_observations(
        human[kept],
        judge[kept],
        n_classes=len(labels.numbers),
        inclusion=np.array([pair.inclusion for pair in matched], np.float64)[kept],
        units=units[kept],
    )
    return calibrate(total, names=tuple(labels.meanings))


def drift(version: JudgeVersion, matched: Sequence[Pair], since: datetime) -> Drift | None:
    """Return the test of drift since a time; None without labels from before it."""
    labels = classes_of(version)
    human, judge = _classes(labels, matched)
    agreed = (human == judge).astype(np.float64)
    before = np.array([pair.labelled_at <= since for pair in matched], np.bool_)
    if not before.any():
        return None
    later = [MeanTotals(1, float(value), 0.0) for value in agreed[~before]]
    try:
        return agreement_drift(MeanTotals.from_observations(agreed[before]), later, alpha=DRIFT_ERROR)
    except InsufficientData:
        return None


def length_slope(matched: Sequence[Pair]) -> Estimate | None:
    """Return the slope of judge minus human on thousands of characters; None if it is undefined."""
    totals = length_totals(
        np.array([pair.judge - pair.human for pair in matched], np.float64),
        np.array([pair.characters / _THOUSAND for pair in matched], np.float64),
        inclusion=np.array([pair.inclusion for pair in matched], np.float64),
        units=np.array([pair.unit_hash for pair in matched], np.int64),
    )
    try:
        return length_bias(totals)
    except InsufficientData:
        return None


def _classes(labels: LabelSet, matched: Sequence[Pair]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the classes of people and of the judge, from 0, shape (n,) each."""
    human = [labels.nearest(pair.human) - labels.lowest for pair in matched]
    judge = [labels.nearest(pair.judge) - labels.lowest for pair in matched]
    return np.array(human, np.int64), np.array(judge, np.int64)
