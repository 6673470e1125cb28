"""Write docs/explanation/validity.md from the rows that `make calibrate` kept.

rm benchmarks/validity.jsonl
make calibrate BENCH="--rows benchmarks/validity.jsonl"
python -m benchmarks.validity_page
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from benchmarks.calibrate import Done, with_error

ROWS: Final = Path(__file__).with_name("validity.jsonl")
PAGE: Final = Path(__file__).parents[1] / "docs/explanation/validity.md"

TITLES: Final = {
    "V1: two equal arms, after every pair": (
        "Confidence sequence of a difference, two equal arms: P(ever misses)",
        "A look after every pair, up to 100,000 units in each arm. R = 2,000.",
    ),
    "V8: two arms, 95/5 and adjusted": (
        "Confidence sequence of a difference, 95/5 split, and with CUPED",
        "A look after every unit, up to 20,000 units. R = 2,000.",
    ),
    "V8: one arm": (
        "Confidence sequences of one mean",
        "A look after every unit, up to 10,000; Bernstein and betting: 20 looks at 50 units each. R = 2,000.",
    ),
    "V8, V9: widths": ("Widths", "Computed."),
    "V2: group sequential plans": ("Group sequential plans", "R = 10,000."),
    "V3, V4: e-processes": (
        "Always-valid p-value and e-processes",
        "Always-valid p-value: 20 runs of 1,000 looks. E-processes: R = 20,000.",
    ),
    "V5: a lead of two roots": ("A lead of 2 sqrt(N)", "N = 2,500 conversions. R = 10,000."),
    "section 2, V2, V3: methods with a horizon": (
        "Sequential methods on one horizon",
        "10,000 observations. R = 4,000.",
    ),
    "V6: SPRT of one rate": (
        "SPRT of one rate",
        "Exact figures beside gsDesign 3.6, as far as it prints them, and Wald's closed form. R = 40,000.",
    ),
    "V7: SPRT of two arms": ("SPRT of the difference of two arms", "Error rates 5 % and 20 %. R = 4,000."),
    "V15, V11: sample ratio": (
        "Sample ratio mismatch",
        "R = 4,000; under moving weights 500, with stale propensities 100.",
    ),
    "balance of covariates": ("Balance of covariates", "R = 4,000; with a covariate that is moved 400."),
    "section 9: canaries": ("Canaries", "Delays are in canary requests. R = 2,000; healthy canaries 1,000."),
    "section 5, V10: Thompson sampling": ("Under Thompson sampling", "R = 2,000."),
    "V13, V14: A/A": ("A/A tests at a fixed horizon", "R = 10,000."),
    "coverage of other intervals": ("Coverage of other 95 % intervals", "R = 10,000."),
    "V12: many metrics": ("100 metrics, 10 of them shifted by 3", "R = 5,000."),
    "V16: plans": ("Power at the planned size", "The target is 0.80. R = 10,000."),
    "V17: judges": ("Prediction-powered inference", "R = 4,000."),
    "V40, V41: quality": (
        "Quality from judges on many and people on few",
        "4,000 responses, 5 % of them labelled; 20 looks. R = 400.",
    ),
    "V42: gate of judges": (
        "The gate of judges",
        "A judge that repeats 0.8 of one label, which is what the gate requires. R = 400.",
    ),
    "V43: drift of judges": (
        "Drift of judges",
        "60 looks at 10 labels each; the judge changes after 300 labels. R = 400.",
    ),
    "V44: paired": ("Paired comparisons", "50 looks at 20 pairs each. R = 400."),
    "V22: thresholds": (
        "Dynamic thresholds: false alarms per point",
        "White noise: R = 100,000. Seasons: 5,000 histories, 20 points each.",
    ),
    "V18: off-policy evaluation": (
        "Off-policy evaluation of simulated logs",
        "1,000 logs of 1,000 rows and ten arms for each policy.",
    ),
    "V19: a real log": (
        "Off-policy evaluation of a real log",
        "10,000 rows of Open Bandit Data, beside obp 0.4.1. Values are relative differences.",
    ),
    "V20: regret": ("Regret of Thompson sampling, one pull at a time", "R = 500."),
    "V21: regret in batches": (
        "Regret of Thompson sampling in batches",
        "0.10 against 0.11 after 100,000 rounds; an even split has a regret of 500. R = 500.",
    ),
    "whole path: A/A": ("A/A experiments through the whole server", "R = 400."),
    "whole path: ramp": ("A ramp under drift through the whole server", "R = 400."),
}
"""Title and size of each part; R is the number of simulated runs of a row."""
HEAD: Final = """# The validity table

`make calibrate` measures each promise of `stats` and `bandits` beside its limit.
`python -m benchmarks.validity_page` writes this page from the rows of a run; do not edit it.
[Statistics](statistics.md#the-validity-table) says how the limits were chosen.

R is the number of simulated runs. ± is one standard error of the simulation; a value without it was
computed.
"""


def page(parts: Iterable[Done]) -> str:
    """Return the page of these parts, one table each."""
    sections = [HEAD]
    for part in parts:
        title, size = TITLES.get(part.part, (part.part, ""))
        lines = [
            f"## {title}",
            "",
            *([size, ""] if size else []),
            "| row | measured | limit |",
            "|---|---|---|",
        ]
        lines += [f"| {row.name} | {with_error(row)} | {row.threshold} |" for row in part.rows]
        sections.append("\n".join(lines) + "\n")
    return "\n".join(sections)


def stored() -> list[Done]:
    """Return the parts of the run that is kept in the repository."""
    return [msgspec.json.decode(line, type=Done) for line in ROWS.read_bytes().splitlines()]


if __name__ == "__main__":
    PAGE.write_text(page(stored()))
