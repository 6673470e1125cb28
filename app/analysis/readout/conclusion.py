"""Say which number decides, and why P(best) and `best_arm` differ from it. Pure."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from app.analysis.readout.record import Readout

_SURE: Final = 0.95
"""P(best) from which a person may take it for a proof."""


class Beliefs(NamedTuple):
    """Numbers that a person sees beside the readout: P(best), the shares, and those of `best_arm`.

    `stopped` is the winner that `best_arm` serves alone; `leads` the variant that it would serve
    next.
    """

    probability_best: Sequence[tuple[str, float]]
    rewards: int
    shares: Sequence[tuple[str, float]]
    adaptive: bool
    stopped: str | None = None
    leads: str | None = None


def conclusion_of(readout: Readout, beliefs: Beliefs) -> str:
    """Return what to do, which number decides, why others differ, and what is missing."""
    sentences = (readout.recommendation.sentence, _of_probability(readout, beliefs), _of_best_arm(beliefs))
    return " ".join(filter(None, sentences))


def _of_probability(readout: Readout, beliefs: Beliefs) -> str:
    """Say how P(best) goes with the readout; empty where a reader sees no contradiction."""
    if not beliefs.probability_best or not beliefs.rewards:
        return ""
    variant, chance = max(beliefs.probability_best, key=lambda pair: pair[1])
    action, chosen = readout.recommendation.action, readout.recommendation.variant
    shown = f"P(best) of {variant} is {_percent(chance)}"
    if action == "ship" or chosen is not None:
        if variant == chosen:
            return f"{shown} and agrees, but the interval decides."
        return f"{shown} and does not agree: it compares averages over all time, so drift can move it."
    if chance < _SURE:
        return ""
    share = dict(beliefs.shares).get(variant)
    served = f", and it gets {share:.0%} of the traffic" if share is not None and beliefs.adaptive else ""
    decides = "The policy allocates by it" if beliefs.adaptive else "It steers nothing here"
    return (
        f"{shown}{served}, but it holds for one look and assumes that rewards do not drift. "
        f"{decides}; the interval decides."
    )


def _percent(chance: float) -> str:
    """Return a probability in percent; never 100 %, which it cannot be."""
    if chance >= 0.9999:
        return "above 99.99%"
    return f"{100 * chance:.3g}%"


def _of_best_arm(beliefs: Beliefs) -> str:
    if beliefs.stopped is not None:
        return f"best_arm has stopped: {beliefs.stopped} gets all traffic."
    if beliefs.leads is not None:
        return f"best_arm stops by the same intervals; {beliefs.leads} leads."
    return ""
