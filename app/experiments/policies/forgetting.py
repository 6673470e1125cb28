"""Rules by which a policy forgets. Pure."""

import math
from typing import Annotated

import msgspec

from app.experiments import limits

Span = Annotated[float, msgspec.Meta(ge=60, le=limits.FORGETTING_S_MAX)]


class Forgetting(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """A rule by which rewards lose their weight. Rewards are kept in buckets of `bucket_s`."""

    @property
    def span_s(self) -> float:
        """Time after which a reward counts half, or not at all."""
        raise NotImplementedError

    @property
    def bucket_s(self) -> int:
        """Length of a bucket in whole seconds.

        It is an eighth of `span_s`, at least `FORGETTING_BUCKET_S_MIN`.
        """
        return max(limits.FORGETTING_BUCKET_S_MIN, math.ceil(self.span_s / limits.FORGETTING_BUCKETS))

    @property
    def buckets_max(self) -> int:
        """Number of buckets that are read, including the present one."""
        raise NotImplementedError


class Discount(Forgetting, frozen=True, tag="discount"):
    """A reward counts half as much with every `half_life_s`.

    After 20 half-lives it no longer counts.
    """

    half_life_s: Span

    @property
    def span_s(self) -> float:
        """Length of a half-life."""
        return self.half_life_s

    @property
    def buckets_max(self) -> int:
        """Number of buckets in `FORGETTING_HALF_LIVES` half-lives."""
        return math.ceil(limits.FORGETTING_HALF_LIVES * self.half_life_s / self.bucket_s)


class Window(Forgetting, frozen=True, tag="window"):
    """A window: only rewards of the last `window_s` seconds count.

    All rewards of the bucket in which it begins count too.
    """

    window_s: Span

    @property
    def span_s(self) -> float:
        """Length of the window."""
        return self.window_s

    @property
    def buckets_max(self) -> int:
        """Number of buckets that cover the window, and the present one."""
        return math.ceil(self.window_s / self.bucket_s) + 1
