"""The overview of the reviews of an experiment. Pure."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Self

import msgspec

from app.reviews.agreement import Agreement
from app.reviews.model import Queue, StoredSettings


class QueueProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Progress of one queue.

    `claimed` items are with a reviewer now. `missing` labels are still wanted by open items. An
    item is `given_up` if too many reviewers skipped it, or its response is gone.
    """

    queue: Queue
    items: int
    open: int
    done: int
    given_up: int
    claimed: int
    labels: int
    skips: int
    missing: int


class ReviewerProgress(msgspec.Struct, frozen=True, kw_only=True):
    """Work of one reviewer. `name` is that of the API key; null for imported labels."""

    reviewer: str
    name: str | None
    labels: int
    skips: int
    corrections: int
    seconds_median: float | None
    last_at: datetime


class SampledStratum(msgspec.Struct, frozen=True):
    """Numbers of responses of a variant and segment that the sample looked at and took."""

    variant: int
    segment: str
    responses: int
    sampled: int


class SampledVariant(msgspec.Struct, frozen=True, kw_only=True):
    """A stratum with the key of its variant, and the share that was sampled."""

    variant: str
    segment: str
    responses: int
    sampled: int
    share: float


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """The probability sample: the rate in force, and the observed share."""

    rate: float
    responses: int
    sampled: int
    share: float | None
    strata: list[SampledVariant]

    @classmethod
    def of(cls, rate: float, strata: Sequence[SampledStratum], variants: Sequence[str]) -> Self:
        """Return the sample of these strata; `variants` are the keys by position."""
        responses = sum(stratum.responses for stratum in strata)
        sampled = sum(stratum.sampled for stratum in strata)
        return cls(
            rate=rate,
            responses=responses,
            sampled=sampled,
            share=sampled / responses if responses else None,
            strata=[
                SampledVariant(
                    variant=_name(variants, stratum.variant),
                    segment=stratum.segment,
                    responses=stratum.responses,
                    sampled=stratum.sampled,
                    share=stratum.sampled / stratum.responses,
                )
                for stratum in strata
                if stratum.responses
            ],
        )


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The reviews of one experiment. `agreement` is that of the probability sample."""

    experiment: str
    settings: StoredSettings | None
    queues: list[QueueProgress]
    sampling: Sampling
    reviewers: list[ReviewerProgress]
    agreement: Agreement


def named(agreement: Agreement, names: Mapping[str, str]) -> Agreement:
    """Return the agreement with a reviewer's name beside the id, where the name is known."""
    coefficients = tuple(
        msgspec.structs.replace(
            coefficient,
            raters=tuple(
                f"{names[rater]} ({rater})" if rater in names else rater for rater in coefficient.raters
            ),
        )
        for coefficient in agreement.coefficients
    )
    return msgspec.structs.replace(agreement, coefficients=coefficients)


def _name(variants: Sequence[str], place: int) -> str:
    return variants[place] if place < len(variants) else f"variant {place}"
