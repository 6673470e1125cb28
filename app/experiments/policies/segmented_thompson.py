"""The policy `segmented_thompson`. Pure."""

from collections.abc import Iterator

from app.core.errors import FieldError
from app.experiments import limits
from app.experiments.plan import Segments
from app.experiments.policies.rule import AdaptivePolicy, BySegment, Evidence, Learns, Setting
from app.experiments.segments import segment_count, value_errors
from bandits.allocation import Allocation
from bandits.arms import BetaArms
from bandits.thompson import thompson


class SegmentedThompsonPolicy(AdaptivePolicy, frozen=True, kw_only=True, tag="segmented_thompson"):
    """Thompson sampling in each segment of the traffic.

    Small segments borrow strength from the others.

    `by` declares the segments: the values of one context attribute, or of several together, at most
    `POLICY_SEGMENTS_MAX` in all. Any other value, and a missing one, is the segment `other` of its
    attribute. `step_max` does not apply.
    """

    reads = "contexts"
    by: tuple[Segments, ...]

    @property
    def learns(self) -> Learns:
        """Rewards by segment."""
        return BySegment(self.by)

    def errors(self, field: str, setting: Setting) -> Iterator[FieldError]:
        """Yield what is wrong with the segments."""
        del setting
        place = f"{field}.by"
        if not self.by:
            yield FieldError(place, "must be at least one attribute")
        if len({segments.attribute for segments in self.by}) != len(self.by):
            yield FieldError(place, "attributes must differ")
        for index, segments in enumerate(self.by):
            yield from value_errors(f"{place}[{index}].values", segments.values)
        if (count := segment_count(self.by)) > limits.POLICY_SEGMENTS_MAX:
            reason = f"at most {limits.POLICY_SEGMENTS_MAX} segments, `other` of each included, got {count}"
            yield FieldError(place, reason)
        yield from self._step_errors(field)

    def allocate(self, evidence: Evidence) -> Allocation:
        """Return what serves all segments together: Thompson sampling of the totals."""
        return thompson(BetaArms.from_totals(evidence.totals), exploration_floor=self.exploration_floor)
