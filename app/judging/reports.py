"""Statistics of a judge: flips, agreement of two versions, and scores by variant. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID

import msgspec

from app.judging.model import Judgement
from stats.interval import Interval
from stats.proportions import exact_interval
from stats.totals import ProportionTotals

FLIP_DISTANCE: Final = 0.1
"""Two scores without labels that differ by more are a flip."""


class FlipRate(msgspec.Struct, frozen=True, kw_only=True):
    """Share of repeated judgements with another verdict, with its 95 % interval.

    `repeated` judgements were chosen by a hash, independently of the verdict.
    """

    repeated: int
    flips: int
    rate: float | None
    interval: Interval | None


class VariantScore(msgspec.Struct, frozen=True, kw_only=True):
    """Mean score of the responses of a variant, weighted by 1 / inclusion probability."""

    variant: str
    control: bool
    judged: int
    mean: float | None
    effect: float | None


class VersionEffect(msgspec.Struct, frozen=True, kw_only=True):
    """Scores of one version by variant in one experiment."""

    experiment: str
    variants: tuple[VariantScore, ...]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions on the same responses of an experiment.

    `flips` of the `compared` responses got another verdict. `mean_difference` is that of b minus a.
    `turned` names the variants whose effect against control has another sign.
    """

    experiment: str
    compared: int
    flips: int
    mean_difference: float | None
    a: tuple[VariantScore, ...]
    b: tuple[VariantScore, ...]
    turned: tuple[str, ...]


def is_flip(first: Judgement, second: Judgement) -> bool:
    """Return whether two scored judgements give different verdicts."""
    if first.label is not None and second.label is not None:
        return first.label != second.label
    assert first.score is not None
    assert second.score is not None
    return abs(first.score - second.score) > FLIP_DISTANCE


def flip_rate(judgements: Iterable[Judgement]) -> FlipRate:
    """Return the flip rate of the judgements that were repeated."""
    by_response: defaultdict[UUID, list[Judgement]] = defaultdict(list)
    for judgement in judgements:
        by_response[judgement.response_key].append(judgement)
    repeated = [group for group in by_response.values() if len(group) > 1]
    flips = sum(is_flip(group[0], group[1]) for group in repeated)
    n = len(repeated)
    return FlipRate(
        repeated=n,
        flips=flips,
        rate=flips / n if n else None,
        interval=exact_interval(ProportionTotals(n, flips), alpha=0.05) if n else None,
    )


def by_variant(
    judgements: Sequence[Judgement], variants: Sequence[str], control: int
) -> tuple[VariantScore, ...]:
    """Return the weighted mean score of each variant (Hájek), and its difference from control."""
    weights, sums, counts = [0.0] * len(variants), [0.0] * len(variants), [0] * len(variants)
    for judgement in judgements:
        if judgement.score is None or judgement.repetition or judgement.variant >= len(variants):
            continue
        weight = 1 / judgement.inclusion_probability
        weights[judgement.variant] += weight
        sums[judgement.variant] += weight * judgement.score
        counts[judgement.variant] += 1
    means = [total / weight if weight else None for total, weight in zip(sums, weights, strict=True)]
    baseline = means[control]
    return tuple(
        VariantScore(
            variant=key,
            control=index == control,
            judged=counts[index],
            mean=mean,
            effect=None if mean is None or baseline is None or index == control else mean - baseline,
        )
        for index, (key, mean) in enumerate(zip(variants, means, strict=True))
    )


def difference(
    a: Sequence[Judgement], b: Sequence[Judgement], *, experiment: str, variants: Sequence[str], control: int
) -> Difference:
    """Compare two versions on the responses that both have scored."""
    first = {judgement.response_key: judgement for judgement in a if judgement.repetition == 0}
    second = {judgement.response_key: judgement for judgement in b if judgement.repetition == 0}
    shared = sorted(first.keys() & second.keys())
    scores_a = by_variant([first[key] for key in shared], variants, control)
    scores_b = by_variant([second[key] for key in shared], variants, control)
    shifts = [(second[key].score or 0.0) - (first[key].score or 0.0) for key in shared]
    return Difference(
        experiment=experiment,
        compared=len(shared),
        flips=sum(is_flip(first[key], second[key]) for key in shared),
        mean_difference=sum(shifts) / len(shifts) if shifts else None,
        a=scores_a,
        b=scores_b,
        turned=tuple(
            before.variant
            for before, now in zip(scores_a, scores_b, strict=True)
            if before.effect and now.effect and before.effect * now.effect < 0
        ),
    )
