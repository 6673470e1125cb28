"""The decision of one assignment: kill and state, override, layer, targeting, then a draw."""

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from app.assignment import bucketing
from app.assignment.snapshot import PreparedExperiment

Reason = Literal[
    "SPLIT",  # drawn
    "TARGETING_MATCH",  # drawn, among the variants that the targeting admits
    "STICKY",  # the first assignment of the unit again, with its id (strict stickiness)
    "NOT_TARGETED",  # outside the targeting or the range of the layer: the control
    "FORCED",  # set by an override of the definition
    "DISABLED",  # not running: the winner of a stopped experiment, or the control
]
"""Why a unit gets its variant."""

RECORDED: Final = frozenset[Reason]({"SPLIT", "TARGETING_MATCH", "STICKY"})
"""Reasons with a draw to learn from. Only these assignments are recorded and analysed."""


class Decision(msgspec.Struct, frozen=True, gc=False):
    """A variant by its position, the probability of its draw (1 if there was none), and the reason."""

    variant: int
    propensity: float
    reason: Reason


def decide(
    experiment: PreparedExperiment,
    unit: str,
    unit_hash: int,
    context: Mapping[str, Any],
    random32: int,
) -> Decision:
    """Return the variant of this unit. The 32 random bits count only without stickiness.

    Raises InvalidInput naming the feature when the policy reads the context and cannot.
    """
    published = experiment.published
    if not experiment.running:
        return Decision(experiment.serves, 1.0, "DISABLED")
    if unit in published.overrides:
        return Decision(published.overrides[unit], 1.0, "FORCED")
    reason: Reason = "SPLIT"
    if experiment.selects:
        if not experiment.admits(unit, context):
            return Decision(published.control, 1.0, "NOT_TARGETED")
        if published.targeting:
            reason = "TARGETING_MATCH"
    weights = None if experiment.reader is None else experiment.reader.weights(context)
    if weights is None:
        if published.stickiness == "none":
            variant = bucketing.draw(random32, experiment.cumulative)
        else:
            variant = bucketing.rendezvous(unit_hash, experiment.seeds, published.weights)
        return Decision(variant, experiment.propensities[variant], reason)
    if published.stickiness == "none":
        variant = bucketing.draw(random32, bucketing.cumulative(weights))
    else:
        variant = bucketing.rendezvous(unit_hash, experiment.seeds, weights)
    return Decision(variant, weights[variant] / bucketing.WHOLE, reason)
