"""Two answers about one pair of responses, in both orders, as one preference. Pure."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from app.judging.judges.model import Attempt, Preference, Unscored
from app.judging.judges.prompts import FIRST, SECOND, TIE

PREFERENCES: Final[Mapping[str, float]] = {FIRST: 1.0, TIE: 0.5, SECOND: 0.0}


class Preferred(NamedTuple):
    """One call's answer: 1 for the first response, 0 for the second, 0.5 for a tie.

    `probability` is the expected answer of a decision model.
    """

    score: float
    reasons: str = ""
    attempts: tuple[Attempt, ...] = ()
    probability: float | None = None


def preference(a_first: Preferred | Unscored, b_first: Preferred | Unscored) -> Preference | Unscored:
    """Return the preference for `a`, from the calls with `a` and with `b` as the first response.

    If the orders disagree, it is a tie. If one call failed, there is none.
    """
    attempts = (*a_first.attempts, *b_first.attempts)
    for call in (a_first, b_first):
        if isinstance(call, Unscored):
            return Unscored(
                reason=call.reason, detail=call.detail, retry_after_s=call.retry_after_s, attempts=attempts
            )
    assert isinstance(a_first, Preferred)
    assert isinstance(b_first, Preferred)
    consistent = a_first.score == 1 - b_first.score
    probability = None
    if a_first.probability is not None and b_first.probability is not None:
        probability = (a_first.probability + 1 - b_first.probability) / 2
    return Preference(
        score=a_first.score if consistent else 0.5,
        consistent=consistent,
        first_preferred=sum(call.score == 1 for call in (a_first, b_first)),
        probability=probability,
        reasons=(a_first.reasons, b_first.reasons),
        attempts=attempts,
    )
