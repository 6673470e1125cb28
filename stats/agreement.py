"""Agreement between raters, such as a judge and a person, beyond what chance would give.

| raters, scale | use |
|---|---|
| two, categories | `cohen_kappa` |
| two, ordered grades | `cohen_kappa` with weights: near misses count less |
| any number, each item rated by the same number | `fleiss_kappa` |
| any number, ratings missing, any scale | `krippendorff_alpha` |
| one category far more frequent than others | `gwet_ac1` beside them: kappa is then low regardless |

Where all items agree alike, as at perfect or opposite agreement, the errors of the formulas vanish
though few items prove little. The result is then a `LimitingAgreement`: its value is the
coefficient (1 at perfect agreement) and its interval reaches from there as far as items not seen
yet could bring it.

Errors take items as independent. Where several items belong to one unit (answers of one
conversation), say so: with `clusters`, or a table per cluster, whole clusters are left out in turn
(jackknife). That needs about 30 clusters.
"""

import math
from collections.abc import Callable, Sequence
from typing import Final, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from stats import checks
from stats.errors import InsufficientData, InvalidInput
from stats.estimate import Alternative, Estimate, HypothesisTest, both_tails
from stats.interval import Interval
from stats.totals import FloatArray

IntArray = NDArray[np.int64]
Weights = Literal["unweighted", "linear", "quadratic"]
Scale = Literal["nominal", "ordinal", "interval"]

_GROUPS_MAX: Final = 400
_ROUNDING: Final = 1e-12


class LimitingAgreement(Estimate, frozen=True, kw_only=True):
    """Agreement beyond chance if each of `items` items has the same agreement `agreed` in [0, 1].

    Only items that agree otherwise could move the coefficient. Without one among n, their share is
    at most 1 - (alpha / 2)^(1 / n) (Clopper and Pearson), and each of them agrees by 0 at least and
    by 1 at most. The interval takes the `chance` agreement as known. `standard_error` is that of
    the same share by Jeffreys' posterior, for comparisons of size only: interval and test do not
    use it.

    Worked by hand: 50 items of perfect agreement with chance 1/2: the share of others is at most
    1 - 0.025^(1/50) = 0.0711 at alpha 0.05, so kappa is within [1 - 0.0711 / (1/2), 1] =
    [0.858, 1].
    """

    items: int
    agreed: float
    chance: float

    @classmethod
    def of(cls, items: int, agreed: float, chance: float) -> "LimitingAgreement":
        """Return the limit for so many items. Raises InsufficientData without items."""
        checks.n_at_least(items, 1, "items")
        error = math.sqrt(0.5 * (items + 0.5) / (items + 2)) / (items + 1) / (1 - chance)
        return cls((agreed - chance) / (1 - chance), error, items=items, agreed=agreed, chance=chance)

    def interval(self, *, alpha: float) -> Interval:
        """Return how far unseen items could lower and raise the coefficient."""
        checks.open_unit(alpha, "alpha")
        return Interval(self.lower_bound(alpha=alpha / 2), self.upper_bound(alpha=alpha / 2))

    def lower_bound(self, *, alpha: float) -> float:
        """Return the one-sided bound above which the truth lies, up to error alpha."""
        return self._coefficient(self.agreed * (1 - self._others(alpha)))

    def upper_bound(self, *, alpha: float) -> float:
        """Return the one-sided bound below which the truth lies, up to error alpha."""
        others = self._others(alpha)
        return self._coefficient(self.agreed * (1 - others) + others)

    def test(self, *, null: float = 0.0, alternative: Alternative = "two-sided") -> HypothesisTest:
        """Return the test whose two-sided form rejects exactly the nulls outside the interval."""
        checks.finite(null, "null")
        agreed = null * (1 - self.chance) + self.chance
        # How many items must agree otherwise for the null to be true: none was seen.
        share = 1 - agreed / self.agreed if agreed < self.agreed else 0.0
        if agreed > self.agreed:
            share = (agreed - self.agreed) / (1 - self.agreed) if self.agreed < 1 else 1.0
        none_seen = self.items * math.log1p(-share) if share < 1 else -math.inf
        log_lower = none_seen if agreed > self.agreed else 0.0
        log_upper = none_seen if agreed < self.agreed else 0.0
        return both_tails((self.value - null) / self.standard_error, log_lower, log_upper, alternative)

    def _others(self, alpha: float) -> float:
        """Return the greatest share of items that agree otherwise."""
        checks.open_unit(alpha, "alpha")
        return -math.expm1(math.log(alpha) / self.items)

    def _coefficient(self, agreed: float) -> float:
        return (agreed - self.chance) / (1 - self.chance)


def cohen_kappa(table: IntArray, *, weights: Weights = "unweighted") -> Estimate:
    """Estimate Cohen's kappa of two raters from the table of counts, shape (k, k).

    Rows are the categories of one rater, columns those of the other. A stack of shape
    (clusters, k, k) has one table per cluster; the error is then the jackknife's.

    Weights give partial agreement 1 - |i - j| / (k - 1) (linear) or 1 - ((i - j) / (k - 1))^2
    (quadratic). The error is the asymptotic one, for at least about 50 items; its interval is about
    agreement in the population.

    Worked by hand: [[20, 5], [10, 15]] agrees in 0.7, by chance in 0.5 * 0.6 + 0.5 * 0.4 = 0.5:
    kappa 0.4.

    At perfect agreement it is 1, as `LimitingAgreement`.

    Raises InsufficientData if there is no item, or a rater uses one category only: kappa is then 0
    or undefined whatever the other rater does. InvalidInput unless the table is square with at
    least 2 categories and no negative count.

    Source: Cohen (1960; 1968); Fleiss, Cohen & Everitt (1969), Psychological Bulletin 72(5), eq. 7
    (error).
    """
    if table.ndim not in (2, 3) or table.shape[-2] != table.shape[-1] or table.shape[-1] < 2:
        raise InvalidInput(f"needs a square table of at least 2 categories, got shape {table.shape}")
    if (table < 0).any():
        raise InvalidInput("needs counts, which are not negative")
    if table.ndim == 3:
        return _clustered_kappa(table, weights)
    n = int(table.sum())
    checks.n_at_least(n, 2, "items")
    share = table / n
    row, column = share.sum(axis=1), share.sum(axis=0)
    weight = _agreement_weights(len(table), weights)
    observed, chance = float((weight * share).sum()), float(row @ weight @ column)
    if max(row.max(), column.max()) >= 1:
        who = "both raters" if row.max() >= 1 and column.max() >= 1 else "a rater"
        raise InsufficientData(f"{who} used one category only: agreement beyond chance is undefined")
    # Average weight of a row's category against the other rater's categories, and the other way
    # round.
    average = (weight @ column)[:, None] + (row @ weight)[None, :]
    form = weight * (1 - chance) - average * (1 - observed)
    centre = observed * chance - 2 * chance + observed
    used = weight[table > 0]
    if used.max() == used.min() and float(np.ptp(form[table > 0])) <= _ROUNDING:
        return LimitingAgreement.of(n, float(used[0]), chance)
    variance = (float((share * form**2).sum()) - centre**2) / (n * (1 - chance) ** 4)
    return Estimate.of_independent((observed - chance) / (1 - chance), [(variance, math.inf)])


def fleiss_kappa(counts: IntArray, *, clusters: IntArray | None = None) -> Estimate:
    """Estimate Fleiss' kappa from counts of raters, shape (items, categories).

    A count is the number of raters that put the item into the category. The error is the
    jackknife's over items. Unlike the formula of 1979, it also holds away from kappa = 0.

    Worked by hand: items (2, 0), (0, 2), (1, 1) agree in 2/3, by chance in 1/2: kappa 1/3.

    At perfect agreement it is 1, as `LimitingAgreement`.

    Raises InsufficientData with fewer than 3 items or a single category in use; InvalidInput unless
    each item has the same number of ratings, at least 2.

    Source: Fleiss (1971), Psychological Bulletin 76(5).
    """
    ratings = counts.sum(axis=1) if counts.ndim == 2 else np.zeros(0)
    if not len(ratings) or ratings[0] < 2 or (ratings != ratings[0]).any() or (counts < 0).any():
        raise InvalidInput(
            "needs counts of shape (items, categories) with the same number >= 2 of ratings each"
        )
    pairs = (counts * (counts - 1)).sum(axis=1) / (ratings * (ratings - 1))
    columns = (counts / ratings[:, None], pairs)
    return _with_error(_chance_corrected, columns, pairs, _fleiss_chance(columns[0]), clusters)


def gwet_ac1(counts: IntArray, *, clusters: IntArray | None = None) -> Estimate:
    """Estimate Gwet's AC1.

    It differs from Fleiss' kappa in its chance agreement, which stays small if one category
    dominates. Chance is sum p (1 - p) / (k - 1) over the k categories of `counts`, shape (items,
    categories). Items may have different numbers of ratings. An item with one rating counts for the
    categories, not for agreement. The error is the jackknife's.

    Worked by hand: items (2, 0), (0, 2), (1, 1) agree in 2/3, by chance in 2 * 1/4 / 1 = 1/2: AC1
    1/3.

    Raises InsufficientData with fewer than 3 items that have two ratings; InvalidInput for a
    negative count or fewer than 2 categories.

    Source: Gwet (2008), British Journal of Mathematical and Statistical Psychology 61(1).
    """
    if counts.ndim != 2 or counts.shape[1] < 2 or (counts < 0).any():
        raise InvalidInput("needs counts of shape (items, categories) with at least 2 categories")
    ratings = counts.sum(axis=1)
    clusters = None if clusters is None else clusters[ratings > 0]
    counts, ratings = counts[ratings > 0], ratings[ratings > 0]
    twice = ratings >= 2
    checks.n_at_least(int(twice.sum()), 3, "items with two ratings")
    possible = np.where(twice, ratings * (ratings - 1), 1)
    pairs = np.where(twice, (counts * (counts - 1)).sum(axis=1) / possible, np.nan)
    columns = (counts / ratings[:, None], pairs)
    return _with_error(_ac1, columns, pairs, _ac1_chance(columns[0]), clusters)


def krippendorff_alpha(ratings: FloatArray, *, scale: Scale, clusters: IntArray | None = None) -> Estimate:
    """Return Krippendorff's alpha of ratings of shape (items, raters), NaN where missing.

    With the jackknife's error. 1 - observed / expected disagreement over pairs within an item and
    over all pairs. Disagreement is 0 or 1 (nominal), the squared difference of ranks (ordinal), or
    of values (interval). At perfect agreement it is 1, as `LimitingAgreement`; how far an item not
    seen yet could disagree is then taken from the greatest difference between the values given.

    Worked by hand: nominal items (1, 1), (2, 2), (1, 2): 2 of 6 paired values disagree; of all
    pairs of 3 ones and 3 twos 18 of 30 do: alpha = 1 - (1/3) / (3/5) = 4/9.

    Raises InsufficientData with fewer than 3 items that have two ratings, or a single value;
    InvalidInput unless the ratings are a matrix without infinities.

    Source: Krippendorff (2011), Computing Krippendorff's Alpha-Reliability, sections C to E.
    """
    if ratings.ndim != 2 or np.isinf(ratings).any():
        raise InvalidInput("ratings must be a matrix (items, raters), NaN where missing")
    twice = (~np.isnan(ratings)).sum(axis=1) >= 2
    usable, clusters = ratings[twice], None if clusters is None else clusters[twice]
    checks.n_at_least(len(usable), 3, "items with two ratings")
    if scale == "interval":
        sums = _item_sums(usable)
        size, total, squares = sums
        farthest = float(np.ptp(usable[~np.isnan(usable)])) ** 2
        disagreement = 2 * (size * squares - total**2) / (size * (size - 1)) / (farthest or 1.0)
        chance = 1 - _interval_expected(*sums) / (farthest or 1.0)
        return _with_error(_interval_alpha, sums, 1 - disagreement, chance, clusters)
    values, codes = np.unique(usable[~np.isnan(usable)], return_inverse=True)
    counts = np.zeros((len(usable), len(values)))
    np.add.at(counts, (np.nonzero(~np.isnan(usable))[0], codes), 1)

    def alpha(*columns: FloatArray) -> float:
        return _alpha(columns[0], scale)

    difference, size = _squared_differences(counts.sum(axis=0), scale), counts.sum(axis=1)
    farthest = float(difference.max()) or 1.0
    disagreement = ((counts @ difference) * counts).sum(axis=1) / (size * (size - 1)) / farthest
    chance = 1 - _expected(counts.sum(axis=0), difference) / farthest
    return _with_error(alpha, (counts,), 1 - disagreement, chance, clusters)


def _agreement_weights(k: int, weights: Weights) -> FloatArray:
    distance = np.abs(np.subtract.outer(np.arange(k), np.arange(k))) / (k - 1)
    match weights:
        case "unweighted":
            return np.eye(k)
        case "linear":
            linear: FloatArray = 1 - distance
            return linear
        case "quadratic":
            quadratic: FloatArray = 1 - distance**2
            return quadratic
        case _:
            assert_never(weights)


def _chance_corrected(shares: FloatArray, pairs: FloatArray) -> float:
    """Return Fleiss' kappa from each item's category shares and its share of agreeing pairs."""
    chance = _fleiss_chance(shares)
    if chance >= 1 - 1e-12:
        raise InsufficientData("one category only was used: agreement beyond chance is undefined")
    return (float(pairs.mean()) - chance) / (1 - chance)


def _fleiss_chance(shares: FloatArray) -> float:
    return float((shares.mean(axis=0) ** 2).sum())


def _ac1(shares: FloatArray, pairs: FloatArray) -> float:
    chance = _ac1_chance(shares)
    return (float(np.nanmean(pairs)) - chance) / (1 - chance)


def _ac1_chance(shares: FloatArray) -> float:
    share = shares.mean(axis=0)
    return float((share * (1 - share)).sum()) / (len(share) - 1)


def _alpha(counts: FloatArray, scale: Literal["nominal", "ordinal"]) -> float:
    """Return 1 - observed / expected, from how often each item got each value."""
    total = counts.sum(axis=0)
    n = total.sum()
    difference = _squared_differences(total, scale)
    size = counts.sum(axis=1)
    observed = float((((counts @ difference) * counts).sum(axis=1) / (size - 1)).sum()) / float(n)
    expected = _expected(total, difference)
    if expected <= 0:
        raise InsufficientData("one value only was given: agreement beyond chance is undefined")
    return 1 - observed / expected


def _expected(total: FloatArray, difference: FloatArray) -> float:
    """Return the mean disagreement over all pairs of ratings."""
    n = total.sum()
    return float(total @ difference @ total) / float(n * (n - 1))


def _item_sums(ratings: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return number, sum and sum of squares of each item's ratings, centred to lose no digits."""
    present = ~np.isnan(ratings)
    centred = np.where(present, ratings - ratings[present].mean(), 0.0)
    return present.sum(axis=1).astype(np.float64), centred.sum(axis=1), (centred**2).sum(axis=1)


def _interval_alpha(size: FloatArray, total: FloatArray, squares: FloatArray) -> float:
    """Do as `_alpha` for squared differences of values, which sums of squares give directly."""
    observed = float(2 * ((size * squares - total**2) / (size - 1)).sum() / size.sum())
    expected = _interval_expected(size, total, squares)
    if expected <= 0:
        raise InsufficientData("one value only was given: agreement beyond chance is undefined")
    return 1 - observed / expected


def _interval_expected(size: FloatArray, total: FloatArray, squares: FloatArray) -> float:
    n = size.sum()
    return float(2 * (n * squares.sum() - total.sum() ** 2) / (n * (n - 1)))


def _squared_differences(total: FloatArray, scale: Literal["nominal", "ordinal"]) -> FloatArray:
    match scale:
        case "nominal":
            return 1.0 - np.eye(len(total))
        case "ordinal":
            # Differences of mean ranks: half of both ends' ratings and all that lie between.
            ranks = np.cumsum(total) - total / 2
        case _:
            assert_never(scale)
    squared: FloatArray = np.subtract.outer(ranks, ranks) ** 2
    return squared


def _clustered_kappa(tables: IntArray, weights: Weights) -> Estimate:
    """Return Cohen's kappa of all tables together, with the jackknife's error over tables."""
    whole = cohen_kappa(tables.sum(axis=0), weights=weights)
    checks.n_at_least(len(tables), 3, "clusters")
    if isinstance(whole, LimitingAgreement):
        return LimitingAgreement.of(len(tables), whole.agreed, whole.chance)
    parts = [cohen_kappa(tables.sum(axis=0) - table, weights=weights).value for table in tables]
    return Estimate.of_independent(whole.value, [(_jackknife_variance(parts), len(parts) - 1)])


def _with_error(
    statistic: Callable[..., float],
    columns: tuple[FloatArray, ...],
    agreements: FloatArray,
    chance: float,
    clusters: IntArray | None,
) -> Estimate:
    """Return the statistic with the jackknife's error, or the limit where all items agree alike.

    `agreements`, shape (items,), are in [0, 1], NaN for items with one rating. Items are left out
    one by one, by cluster, or (beyond `_GROUPS_MAX` items) in groups, so that the work stays in
    proportion to the items.

    Raises InsufficientData if leaving out items never changes the statistic although they differ.

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, eq. 11.5; Shao & Tu (1995),
    The Jackknife and Bootstrap, section 5.1.2, for groups.
    """
    n = len(agreements)
    known = agreements[~np.isnan(agreements)]
    groups = _clusters_of(clusters, n) if clusters is not None else None
    checks.n_at_least(n if groups is None else len(groups), 3, "items" if groups is None else "clusters")
    value = statistic(*columns)
    units = len(known) if groups is None else len(groups)
    if known.min() >= 1 - _ROUNDING:
        return LimitingAgreement.of(units, 1.0, chance)
    groups = groups or np.array_split(np.arange(n), min(n, _GROUPS_MAX))
    parts = [statistic(*(np.delete(column, group, axis=0) for column in columns)) for group in groups]
    variance = _jackknife_variance(parts)
    if math.sqrt(variance) > _ROUNDING:
        return Estimate.of_independent(value, [(variance, len(groups) - 1)])
    if np.ptp(known) <= _ROUNDING:
        return LimitingAgreement.of(units, float(np.clip(known[0], 0.0, 1.0)), chance)
    raise InsufficientData("leaving out items does not change the coefficient, so it has no error")


def _clusters_of(clusters: IntArray, n: int) -> list[IntArray]:
    """Return the positions of the items of each cluster."""
    if clusters.shape != (n,):
        raise InvalidInput(f"needs a cluster for each of {n} items, got shape {clusters.shape}")
    _, codes, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return np.split(np.argsort(codes, kind="stable"), np.cumsum(sizes)[:-1])


def _jackknife_variance(parts: Sequence[float]) -> float:
    return (len(parts) - 1) * float(np.var(parts))
