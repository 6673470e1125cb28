"""The definition of *harm* and *safe*: the verdict on one metric of a variant at one look. Pure.

*Harm*: the variant is proven to be worse than the control, and is not proven to be within the
margin. *Safe*: it is proven to be within the margin: not worse, or worse by less. The readout and
rollouts both decide here.
"""

from typing import Final, Literal

Verdict = Literal["harm", "safe", "not_enough_data"]
"""The verdict on a guardrail."""
ReadoutVerdict = Literal["harm", "safe", "better", "not_enough_data"]
"""A verdict of the readout. *Better*: proven to be better than the control, which is also safe."""

UNDECIDED: Final = "the interval contains both harm and safety"
"""The reason of a verdict `not_enough_data` that has an interval."""


def verdict_of(*, worse: bool, within: bool) -> Verdict:
    """Return the verdict that follows from the two proofs, both made from the same data.

    A variant that is proven to be worse, but by less than the margin, is safe.
    """
    if within:
        return "safe"
    return "harm" if worse else "not_enough_data"
