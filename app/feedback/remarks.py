"""What accepted events are told when they do not count, or not as they were likely meant. Pure.

Most requests have no remarks; those that do may cost more, but their work is bounded too.
"""

from collections.abc import Iterator
from typing import Final

import numpy as np

from app.assignment.assignment_id import Signer
from app.assignment.snapshot import PreparedExperiment, Snapshot
from app.experiments.signals import nearest
from app.feedback.decode import Decoded
from app.feedback.limits import SUGGESTIONS_MAX, WARNINGS_MAX
from app.feedback.model import REMARKS, Event, FeedbackWarning, Receipt, Rejection, Remark, Verdict
from app.feedback.validate import Judged

_NOT_RECORDED: Final = Remark.NOT_STARTED | Remark.UNRECORDED


def remarked(
    decoded: Decoded, judged: Judged, rejections: tuple[Rejection, ...], snapshot: Snapshot
) -> Receipt:
    """The receipt of events of which some have remarks: each event is counted once, by the first that holds.

    The order is that of the ledger: an unknown signal, then late, then early, then waiting.
    """
    assert judged.remarks is not None
    accepted = judged.verdicts == Verdict.ACCEPTED
    remarks = judged.remarks
    by_unit = np.array([event.assignment_id is None for event in decoded.events], np.bool_)
    left = accepted.copy()

    def take(holds: np.ndarray) -> int:
        taken = left & holds
        left[taken] = False
        return int(taken.sum())

    unknown_signal = take((remarks & Remark.UNKNOWN_SIGNAL) != 0)
    late = take((remarks & Remark.LATE) != 0)
    early = take((remarks & Remark.EARLY) != 0)
    waiting = take(((remarks & _NOT_RECORDED) != 0) | by_unit)
    return Receipt(
        int(accepted.sum()),
        rejections,
        counted=int(left.sum()),
        waiting=waiting,
        unknown_signal=unknown_signal,
        late=late,
        early=early,
        warned=int((remarks != 0).sum()),
        warnings=tuple(_warnings(decoded, judged, snapshot)),
    )


def _warnings(decoded: Decoded, judged: Judged, snapshot: Snapshot) -> Iterator[FeedbackWarning]:
    """At most `WARNINGS_MAX`, in the order of the request; of one event all of its remarks."""
    assert judged.remarks is not None
    suggested: dict[tuple[int, str], str | None] = {}
    left = WARNINGS_MAX
    for number in np.flatnonzero(judged.remarks)[:WARNINGS_MAX].tolist():
        event, place = decoded.events[number], decoded.places[number]
        experiment = _experiment(event, snapshot)
        if experiment is None:
            continue
        for remark in Remark(int(judged.remarks[number])):
            if not left:
                return
            left -= 1
            text = REMARKS[remark]
            near, reason = None, text.reason.format(**_words(event, experiment))
            if remark is Remark.UNKNOWN_SIGNAL:
                key = experiment.published.id, event.signal
                if key not in suggested and len(suggested) < SUGGESTIONS_MAX:
                    suggested[key] = nearest(event.signal, experiment.signals)
                near = suggested.get(key)
                reason += f"; did you mean {near!r}?" if near else ""
            yield FeedbackWarning(place, text.kind, text.field, reason, near)


def _words(event: Event, experiment: PreparedExperiment) -> dict[str, object]:
    """What the text of a remark may name."""
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
