"""Warnings about accepted events that do not count, or that count in an unexpected way. Pure.

Most requests have no remarks. A request with remarks costs more, within bounds.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from app.assignment.assignment_id import Signer
from app.assignment.snapshot import PreparedExperiment, Snapshot
from app.experiments.signals import nearest
from app.feedback.decode import Decoded
from app.feedback.limits import SUGGESTIONS_MAX, WARNINGS_MAX
from app.feedback.model import REMARKS, Event, EventResult, FeedbackWarning, Receipt, Rejection, Remark
from app.feedback.validate import Validated

_NOT_RECORDED: Final = Remark.NOT_STARTED | Remark.UNRECORDED


def remarked(
    decoded: Decoded, validated: Validated, rejections: tuple[Rejection, ...], snapshot: Snapshot
) -> Receipt:
    """Return the receipt of events with remarks. Each event is counted once.

    The first remark that applies decides, in the order of the ledger: an unknown signal, late, early,
    waiting.
    """
    assert validated.remarks is not None
    accepted = validated.results == EventResult.ACCEPTED
    remarks = validated.remarks
    by_unit = np.array([event.assignment_id is None for event in decoded.events], np.bool_)
    uncounted = accepted.copy()

    def take(applies: np.ndarray) -> int:
        taken = uncounted & applies
        uncounted[taken] = False
        return int(taken.sum())

    unknown_signal = take((remarks & Remark.UNKNOWN_SIGNAL) != 0)
    late = take((remarks & Remark.LATE) != 0)
    early = take((remarks & Remark.EARLY) != 0)
    waiting = take(((remarks & _NOT_RECORDED) != 0) | by_unit)
    return Receipt(
        int(accepted.sum()),
        rejections,
        counted=int(uncounted.sum()),
        waiting=waiting,
        unknown_signal=unknown_signal,
        late=late,
        early=early,
        warned=int((remarks != 0).sum()),
        warnings=tuple(_warnings(decoded, validated, snapshot)),
    )


def _warnings(decoded: Decoded, validated: Validated, snapshot: Snapshot) -> Iterator[FeedbackWarning]:
    """Yield at most `WARNINGS_MAX` warnings in the order of the request, by event."""
    assert validated.remarks is not None
    suggested: dict[tuple[int, str], str | None] = {}
    n_left = WARNINGS_MAX
    for number in np.flatnonzero(validated.remarks)[:WARNINGS_MAX].tolist():
        event, place = decoded.events[number], decoded.places[number]
        experiment = _experiment(event, snapshot)
        if experiment is None:
            continue
        for remark in Remark(int(validated.remarks[number])):
            if not n_left:
                return
            n_left -= 1
            text = REMARKS[remark]
            suggestion, reason = None, text.reason.format(**_words(event, experiment))
            if remark is Remark.UNKNOWN_SIGNAL:
                key = experiment.published.id, event.signal
                if key not in suggested and len(suggested) < SUGGESTIONS_MAX:
                    suggested[key] = nearest(event.signal, experiment.signals)
                suggestion = suggested.get(key)
                reason += f"; did you mean {suggestion!r}?" if suggestion else ""
            yield FeedbackWarning(place, text.kind, text.field, reason, suggestion)


def _words(event: Event, experiment: PreparedExperiment) -> dict[str, object]:
    """Return the values that the text of a remark may contain."""
    use = experiment.signals.get(event.signal)
    low, high = (None, None) if use is None else (use.low, use.high)
    return {
        "experiment": experiment.published.key,
        "signal": event.signal,
        "horizon_s": experiment.published.reward.horizon_s,
        "value": 0.0 if event.value is None else event.value,
        "low": "any" if low is None else f"{low:g}",
        "high": "any" if high is None else f"{high:g}",
    }


def _experiment(event: Event, snapshot: Snapshot) -> PreparedExperiment | None:
    if event.assignment_id is None:
        return snapshot.by_key.get(event.experiment or "")
    signer: Signer | None = snapshot.signer
    if signer is None:
        return None
    bodies, _ = signer.verify_batch([event.assignment_id])
    return snapshot.by_id.get(int(bodies["experiment_id"][0]))
