"""The catalogue of signals: what each common signal means and what its values are. Pure.

An experiment may use any other name. Its definition can declare the name like an entry here.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final, Literal

import msgspec

from app.core.text import Key
from app.experiments import limits
from app.experiments.metrics import Direction

SignalSource = Literal["implicit", "explicit", "automated", "human"]
"""Origin of a signal: behaviour, a statement of the user, a program, a reviewer."""

Bound = Annotated[float, msgspec.Meta(ge=-limits.REWARD_VALUE_MAX, le=limits.REWARD_VALUE_MAX)]
Text = Annotated[str, msgspec.Meta(max_length=limits.SIGNAL_TEXT_LENGTH_MAX)]


class SignalKind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A kind of signal.

    `direction`: which values are better for the user. `range`: its least and greatest value; null
    leaves a side open. `value`: what an event without a value counts; null: the signal measures
    something, so an event needs a value. `weight`: the default part in a reward, in [-1, 1], where
    0 is neutral. `noise`: what typically blurs it. `replaces`: an opposite signal about the same
    fact, whose earlier value it takes back in a composite reward.

    Raises ValueError unless the lower end of the range is below the upper one.
    """

    meaning: Text
    source: SignalSource = "implicit"
    direction: Direction = "higher"
    range: tuple[Bound | None, Bound | None] = (0.0, 1.0)
    value: Bound | None = 1.0
    weight: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    noise: Text = ""
    replaces: Key | None = None

    def __post_init__(self) -> None:
        low, high = self.range
        if low is not None and high is not None and not low < high:
            raise ValueError(f"range must have its lower bound below the upper one, got {low:g} and {high:g}")

    @property
    def scale(self) -> tuple[float, float] | None:
        """Range with both ends; None if a side is open."""
        low, high = self.range
        return None if low is None or high is None else (low, high)


def _amount(meaning: str, noise: str, source: SignalSource = "automated") -> SignalKind:
    """Return a kind for an amount from 0 upwards. Less is better."""
    return SignalKind(
        meaning=meaning, source=source, direction="lower", range=(0.0, None), value=None, noise=noise
    )


def _score(meaning: str, source: SignalSource, scale: tuple[float, float], noise: str) -> SignalKind:
    """Return a kind for a score on a scale. More is better."""
    return SignalKind(meaning=meaning, source=source, range=scale, value=None, noise=noise)


CATALOGUE: Final[Mapping[str, SignalKind]] = {
    "copied": SignalKind(
        meaning="The user copied the response.",
        weight=0.8,
        noise="Some users copy a part to complain about it; most good answers are never copied.",
    ),
    "regenerated": SignalKind(
        meaning="The user asked for another response to the same prompt.",
        direction="lower",
        weight=-0.5,
        noise="Some users regenerate to compare good answers.",
    ),
    "abandoned": SignalKind(
        meaning="The user left without any further action.",
        direction="lower",
        weight=-0.3,
        noise="A user also leaves when the answer was complete; weak on its own.",
    ),
    "follow_up_correction": SignalKind(
        meaning="The next message of the session corrects the response.",
        direction="lower",
        weight=-0.6,
        noise="Phrases miss polite corrections and count some changes of topic.",
    ),
    "retried": SignalKind(
        meaning="The user sent nearly the same prompt again.",
        direction="lower",
        weight=-0.4,
        noise="Network errors and double clicks look alike.",
    ),
    "clicked": SignalKind(
        meaning="The user opened a link or an action of the response.",
        weight=0.4,
        noise="Depends on position and layout more than on quality.",
    ),
    "thumbs_up": SignalKind(
        meaning="The user rated the response as good.",
        source="explicit",
        weight=1.0,
        noise="1 to 3 % of users rate; the satisfied and the angry are over-represented.",
        replaces="thumbs_down",
    ),
    "thumbs_down": SignalKind(
        meaning="The user rated the response as bad.",
        source="explicit",
        direction="lower",
        weight=-1.0,
        noise="1 to 3 % of users rate; the angry are over-represented.",
        replaces="thumbs_up",
    ),
    "thumbs": _score(
        "The rating of the user: 1 is up, -1 is down.",
        "explicit",
        (-1.0, 1.0),
        "1 to 3 % of users rate; the satisfied and the angry are over-represented.",
    ),
    "stars": _score("The stars of the user.", "explicit", (1.0, 5.0), "Most ratings are 1 or 5."),
    "csat": _score(
        "The satisfaction of the user in a survey.",
        "explicit",
        (1.0, 5.0),
        "Few users answer, and long after the response.",
    ),
    "task_completed": SignalKind(
        meaning="The task of the user is done, by the rules of the product.",
        source="automated",
        weight=1.0,
        noise="Depends on much that comes after the response.",
    ),
    "latency_ms": _amount("Time to the complete response, in milliseconds.", "Heavy upper tail."),
    "error": SignalKind(
        meaning="The response failed.",
        source="automated",
        direction="lower",
        weight=-1.0,
        noise="Outages of a provider hit all variants that share it.",
    ),
    "refusal": SignalKind(
        meaning="The model refused to answer.",
        source="automated",
        direction="lower",
        weight=-0.5,
        noise="Found by phrases; some refusals are right.",
    ),
    "tokens_in": _amount("Number of tokens of the prompt.", "Depends on the tokenizer of the model."),
    "tokens_out": _amount("Number of tokens of the response.", "Depends on the tokenizer of the model."),
    "cost_usd": _amount("Cost of the response, in US dollars.", "Heavy upper tail."),
    "judge_score": _score(
        "The score of a judge model.",
        "automated",
        (1.0, 3.0),
        "Biased by length and position; use it only after calibration with human labels.",
    ),
    "review_score": _score(
        "The score of a human reviewer.",
        "human",
        (1.0, 3.0),
        "Reviewers disagree; see the agreement of the reviewers.",
    ),
}
"""The entries by name. A release may add entries, and never changes what an entry means."""


class CatalogueEntry(SignalKind, frozen=True, kw_only=True):
    """A kind of signal and its name. `reward`: its default weight, mapped to [0, 1]."""

    signal: Key
    reward: float | None


def entries(kinds: Mapping[str, SignalKind] = CATALOGUE) -> list[CatalogueEntry]:
    """Return the entries of a catalogue in their order."""
    return [
        CatalogueEntry(
            signal=name,
            reward=None if kind.weight is None else (kind.weight + 1) / 2,
            **msgspec.structs.asdict(kind),
        )
        for name, kind in kinds.items()
    ]


def known_names(declared: Iterable[str] = ()) -> list[str]:
    """Return the names of the catalogue and the declared ones, each once."""
    return list(dict.fromkeys([*CATALOGUE, *declared]))
