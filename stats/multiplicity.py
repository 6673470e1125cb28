"""Many metrics, variants or segments at once: the level at which a family of intervals is shown.

| correction | controls | holds |
|---|---|---|
| `bonferroni` | any false finding, up to alpha | under any dependence |
| `benjamini-hochberg` | the share of false findings, up to alpha | see below |
| `benjamini-yekutieli` | the same | under any dependence, at a high price |

Benjamini-Hochberg holds for independent or positively dependent metrics, and for always-valid
intervals under any dependence. Holm's correction is not offered: no intervals go with its findings.

Guardrails stay out of the family: to miss harm because many metrics were measured would protect the
wrong side. Each is tested at its own alpha.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from stats import checks

Correction = Literal["bonferroni", "benjamini-hochberg", "benjamini-yekutieli"]
Role = Literal["primary", "secondary", "guardrail"]


def family_level(
    members: Sequence[Callable[[float], bool] | None], alpha: float, correction: Correction
) -> float:
    """Return the level of all intervals of a family: one excludes 0 exactly if it is a finding.

    Each member says whether its interval at a level excludes 0. None stands for a member without
    evidence; it counts in the size m of the family. Bonferroni: alpha / m. Benjamini-Hochberg: with
    R findings, R alpha / m, the step-up rule written for intervals. On p-values it has the findings
    of statsmodels' `multipletests`; on always-valid intervals it is the e-BH procedure, valid under
    any dependence. Yekutieli divides by 1 + 1/2 + ... + 1/m.

    Worked by hand: p-values 0.01 and 0.03 at alpha 0.05 are both below 2 * 0.05 / 2, so R = 2 and
    the level is 0.05. With 0.2 instead of 0.03, only the first is below 1 * 0.05 / 2: the level is
    0.025.

    Raises InvalidInput unless alpha is in (0, 1).

    Source: Benjamini & Hochberg (1995), Journal of the Royal Statistical Society B 57(1). Benjamini
    & Yekutieli (2001), Annals of Statistics 29(4), and (2005), JASA 100(469), for the intervals.
    Wang & Ramdas (2022), JRSS B 84(3). Xu, Wang & Ramdas (2024), Biometrika, for the intervals of
    e-values.
    """
    checks.open_unit(alpha, "alpha")
    m = max(len(members), 1)
    if correction == "bonferroni":
        return alpha / m
    divisor = float(np.sum(1 / np.arange(1, m + 1))) if correction == "benjamini-yekutieli" else 1.0
    known = [member for member in members if member is not None]
    for findings in range(len(known), 0, -1):
        level = alpha * findings / m / divisor
        if sum(excludes_zero(level) for excludes_zero in known) >= findings:
            return level
    return alpha / m / divisor
