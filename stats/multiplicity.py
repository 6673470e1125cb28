"""Many metrics, variants or segments at once: adjusted p-values and the intervals that go with them.

| wanted | use | holds |
|---|---|---|
| no false finding at all, up to alpha | `holm`, or `bonferroni` with intervals | under any dependence |
| at most alpha false among the findings | `benjamini-hochberg` | independent or positively dependent |
| the same under any dependence | `benjamini-yekutieli` | under any dependence, at a high price |
| the same from e-values, at any time | `e_benjamini_hochberg` | under any dependence |

Guardrails stay out of the family: to miss harm because many metrics were measured would protect the wrong
side. Each is tested at its own alpha.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from stats import checks
from stats.errors import InvalidInput
from stats.estimate import Estimate
from stats.interval import Interval

Correction = Literal["bonferroni", "holm", "benjamini-hochberg", "benjamini-yekutieli"]
Role = Literal["primary", "secondary", "guardrail"]

_STATSMODELS = {
    "bonferroni": "bonferroni",
    "holm": "holm",
    "benjamini-hochberg": "fdr_bh",
    "benjamini-yekutieli": "fdr_by",
}


def adjusted_p_values(p_values: Sequence[float], *, correction: Correction) -> tuple[float, ...]:
    """Each p-value adjusted: a finding is one whose adjusted p-value is at most alpha. Empty for none.

    Worked by hand: 0.01, 0.02, 0.04 become 0.03, 0.06, 0.12 (Bonferroni), 0.03, 0.04, 0.04 (Holm) and 0.03,
    0.03, 0.04 (Benjamini-Hochberg).

    Raises InvalidInput unless every p-value is in [0, 1].

    Source: Holm (1979), Scandinavian Journal of Statistics 6(2); Benjamini & Hochberg (1995), Journal of the
    Royal Statistical Society B 57(1); Benjamini & Yekutieli (2001), Annals of Statistics 29(4). By
    statsmodels.
    """
    for p_value in p_values:
        checks.closed_unit(p_value, "p_value")
    if len(p_values) == 0:
        return ()
    from statsmodels.stats.multitest import multipletests  # noqa: PLC0415  (loads pandas, which takes a second)

    adjusted = multipletests(p_values, method=_STATSMODELS[correction])[1]
    return tuple(float(p_value) for p_value in adjusted)


def e_benjamini_hochberg(e_values: Sequence[float], *, alpha: float) -> tuple[bool, ...]:
    """Which hypotheses are findings, by their e-values.

    The k largest of m e-values, k the greatest number with e_(k) >= m / (alpha k).

    At most alpha of the findings are false on average, however the e-values depend on each other; also when
    they are e-processes stopped at one common time, whatever decided on it.

    Worked by hand: e-values 60, 25, 1 at alpha 0.1 need 30, 15, 10 for the first, second, third: two
    findings.

    Raises InvalidInput unless e-values are at least 0 and alpha is in (0, 1).

    Source: Wang & Ramdas (2022), Journal of the Royal Statistical Society B 84(3), definition 3.
    """
    checks.open_unit(alpha, "alpha")
    for e_value in e_values:
        if not e_value >= 0:
            raise InvalidInput(f"an e-value must be at least 0, got {e_value:g}")
    m = len(e_values)
    descending = sorted(e_values, reverse=True)
    enough = [rank for rank, e_value in enumerate(descending, start=1) if rank * e_value >= m / alpha]
    threshold = m / (alpha * max(enough)) if enough else None
    return tuple(threshold is not None and e_value >= threshold for e_value in e_values)


def simultaneous_intervals(
    effects: Sequence[Estimate], *, alpha: float, correction: Correction
) -> tuple[Interval | None, ...]:
    """The intervals that go with the adjusted two-sided tests against 0.

    Bonferroni and Holm: all of them contain their truths with probability 1 - alpha, at level alpha / m.
    (Holm's step-down rejects somewhat more than these intervals show; it has no better two-sided intervals of
    use.)

    Benjamini-Hochberg and -Yekutieli: intervals for the R findings only, None for the others, at level R
    alpha / m (divided by 1 + 1/2 + ... + 1/m for Yekutieli). Of the intervals *given*, at most alpha miss on
    average. Plain intervals of selected effects miss far more often. Each excludes 0, exactly as its test
    says.

    Worked by hand: with m = 4, alpha = 0.05 and R = 2 findings, both get 1 - 2 * 0.05 / 4 = 97.5 % intervals.

    Source: Benjamini & Yekutieli (2005), Journal of the American Statistical Association 100(469), procedure
    1. Proved for independent estimates (Benjamini-Hochberg), for any dependence with Yekutieli's divisor.
    """
    checks.open_unit(alpha, "alpha")
    m = len(effects)
    if correction in ("bonferroni", "holm"):
        return tuple(effect.interval(alpha=alpha / m) for effect in effects)
    p_values = adjusted_p_values([effect.test().p_value for effect in effects], correction=correction)
    findings = [p_value <= alpha for p_value in p_values]
    level = sum(findings) * alpha / m if m else alpha
    if correction == "benjamini-yekutieli":
        level /= float(np.sum(1 / np.arange(1, m + 1)))
    return tuple(
        effect.interval(alpha=level) if finding else None
        for effect, finding in zip(effects, findings, strict=True)
    )


class Member(msgspec.Struct, frozen=True):
    """One effect among those measured together. A key names it, such as metric and variant."""

    key: str
    role: Role
    effect: Estimate


class Finding(msgspec.Struct, frozen=True):
    """What a family says of one member. `interval` is None if the correction gives one to findings only.

    `adjusted` is False for a guardrail: its p-value and interval are its own, at alpha.
    """

    key: str
    role: Role
    adjusted: bool
    p_value: float
    interval: Interval | None
    significant: bool


def family_findings(
    members: Sequence[Member], *, alpha: float, correction: Correction
) -> tuple[Finding, ...]:
    """Two-sided findings for all members, in their order; guardrails beside the family, not in it.

    The family is all primary and secondary members: its error rate is alpha. Each guardrail has the error
    rate alpha of its own, so adding metrics never makes harm harder to see.

    Worked by hand: two metrics with p 0.03 and a guardrail with p 0.03 at alpha 0.05 under Bonferroni: the
    metrics become 0.06, no findings; the guardrail stays 0.03, a finding.

    Raises InvalidInput if a key repeats.
    """
    keys = [member.key for member in members]
    if len(set(keys)) < len(keys):
        raise InvalidInput("a key repeats in the family")
    family = [member for member in members if member.role != "guardrail"]
    p_values = adjusted_p_values([member.effect.test().p_value for member in family], correction=correction)
    intervals = simultaneous_intervals(
        [member.effect for member in family], alpha=alpha, correction=correction
    )
    found = {
        member.key: Finding(
            member.key,
            member.role,
            adjusted=True,
            p_value=p_value,
            interval=interval,
            significant=p_value <= alpha,
        )
        for member, p_value, interval in zip(family, p_values, intervals, strict=True)
    }
    return tuple(found.get(member.key) or _alone(member, alpha) for member in members)


def _alone(member: Member, alpha: float) -> Finding:
    p_value = member.effect.test().p_value
    interval = member.effect.interval(alpha=alpha)
    return Finding(
        member.key,
        member.role,
        adjusted=False,
        p_value=p_value,
        interval=interval,
        significant=p_value <= alpha,
    )
