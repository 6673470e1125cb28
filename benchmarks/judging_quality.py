"""Quality on real data: estimates from judge scores and few labels, beside the truth of all labels.

    python -m benchmarks.judging_quality

The file has scores of two models for the same 6,133 responses of six models to 1,024 real tasks.
`gpt-4o` plays the person and `gpt-4-turbo` the judge, so the truth is known: the mean score of all
responses by `gpt-4o`, on the scale from 0 to 1. In each draw the responses arrive in random order,
the judge scores all of them, and one in twenty gets a label at random. Responses to one task are
one unit.

| what must hold over 500 draws | |
|---|---|
| the 95 % interval for one look covers the truth | in at least 93 % |
| it is narrower than that of the labels alone | by at least 25 % |
| the interval for every look covers it at each of 20 looks | in at least 95 % |
| the judge's mean, with its own 95 % interval, covers it | shown to miss |
"""

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import harness
from benchmarks.validity import SEED
from stats.errors import InsufficientData
from stats.prediction_powered import (
    JudgedTotals,
    PredictionPoweredMean,
    prediction_powered_mean,
    quality_difference_sequence,
    quality_sequence,
)
from stats.totals import FloatArray

SCORES: Final = Path(__file__).parents[2] / "shared/data/llm_judge_scores.csv"
PERSON: Final = "gpt-4o-2024-05-13"
JUDGE: Final = "gpt-4-turbo-2024-04-09"
CONTROL: Final = "gpt-3.5-turbo-0125"
LABEL_RATE: Final = 0.05
LOOKS: Final = 20
DRAWS: Final = 500
COVERAGE_MIN: Final = 0.93
NARROWER_MIN: Final = 0.25
SEQUENCE_COVERAGE_MIN: Final = 0.95


class Responses(NamedTuple):
    """Scores of all responses from 0 to 1, their tasks and their models, each of shape (n,)."""

    person: FloatArray
    judge: FloatArray
    task: NDArray[np.int64]
    model: NDArray[np.str_]

    def of(self, model: str) -> "Responses":
        """Return the responses of one model."""
        chosen = self.model == model
        return Responses(*(values[chosen] for values in self))


class Result(NamedTuple):
    """Shares of draws, and mean widths, for one estimate of the truth."""

    name: str
    labels: float
    covered: float
    narrower: float
    covered_at_every_look: float
    first_look: float
    judge_covered: float
    judge_bias: float

    @property
    def passed(self) -> bool:
        """Whether the figures are as they must be."""
        return (
            self.covered >= COVERAGE_MIN
            and self.narrower >= NARROWER_MIN
            and self.covered_at_every_look >= SEQUENCE_COVERAGE_MIN
            and self.judge_covered < COVERAGE_MIN
        )


def read(path: Path = SCORES) -> Responses:
    """Return the responses that both models scored."""
    scores: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["score"]:
                scores[row["task_id"], row["model"]][row["judge"]] = (float(row["score"]) - 1) / 9
    both = {key: by_judge for key, by_judge in scores.items() if {PERSON, JUDGE} <= by_judge.keys()}
    _, tasks = np.unique([task for task, _ in both], return_inverse=True)
    return Responses(
        np.array([by_judge[PERSON] for by_judge in both.values()]),
        np.array([by_judge[JUDGE] for by_judge in both.values()]),
        tasks.astype(np.int64),
        np.array([model for _, model in both]),
    )


def looks(responses: Responses, rng: np.random.Generator) -> Iterator[JudgedTotals]:
    """Yield the totals at each look of one draw: responses arrive in random order."""
    n = len(responses.person)
    order = rng.permutation(n)
    human = np.where(rng.random(n) < LABEL_RATE, responses.person[order], np.nan)
    inclusion = np.full(n, LABEL_RATE)
    for look in range(1, LOOKS + 1):
        stop = n * look // LOOKS
        chosen = order[:stop]
        yield JudgedTotals.from_observations(
            responses.judge[chosen], human[:stop], inclusion[:stop], units=responses.task[chosen]
        )


def quality(responses: Responses, name: str, *, draws: int = DRAWS, seed: int = 0) -> Result:
    """Measure the estimates of one mean over many draws of order and labels."""
    truth = float(responses.person.mean())
    tally = np.zeros(7)
    for draw in range(draws):
        rng = np.random.default_rng(SEED + seed + draw)
        covered_at_every_look, first_look = True, LOOKS + 1
        estimate: PredictionPoweredMean | None = None
        for look, total in enumerate(looks(responses, rng), start=1):
            try:
                estimate = prediction_powered_mean(total)
                sequence = quality_sequence(estimate, alpha=0.05)
            except InsufficientData:
                continue
            first_look = min(first_look, look)
            covered_at_every_look &= sequence.lower <= truth <= sequence.upper
        assert estimate is not None
        interval = estimate.mean.interval(alpha=0.05)
        alone = estimate.labels_alone.interval(alpha=0.05)
        tally += (
            total.n_labelled,
            interval.lower <= truth <= interval.upper,
            1 - (interval.upper - interval.lower) / (alone.upper - alone.lower),
            covered_at_every_look,
            first_look,
            _judge_covers(responses.judge, truth),
            total.judge_mean - truth if total.judge_mean is not None else math.nan,
        )
    return Result(name, *(tally / draws).tolist())


def difference(responses: Responses, model: str, *, draws: int = DRAWS, seed: int = 0) -> Result:
    """Measure the estimates of the difference between a model and the control."""
    arms = [responses.of(name) for name in (model, CONTROL)]
    truth = float(arms[0].person.mean() - arms[1].person.mean())
    naive = float(arms[0].judge.mean() - arms[1].judge.mean())
    error = math.hypot(*(float(arm.judge.std(ddof=1)) / math.sqrt(len(arm.judge)) for arm in arms))
    tally = np.zeros(5)
    for draw in range(draws):
        rngs = [np.random.default_rng((SEED + seed + draw, arm)) for arm in (0, 1)]
        covered_at_every_look, first_look = True, LOOKS + 1
        estimates: list[PredictionPoweredMean] = []
        for look, totals in enumerate(
            zip(*(looks(arm, rng) for arm, rng in zip(arms, rngs, strict=True)), strict=True), start=1
        ):
            try:
                estimates = [prediction_powered_mean(total) for total in totals]
                sequence = quality_difference_sequence(*estimates, alpha=0.05)
            except InsufficientData:
                continue
            first_look = min(first_look, look)
            covered_at_every_look &= sequence.lower <= truth <= sequence.upper
        treatment, control = estimates
        interval = (treatment.mean - control.mean).interval(alpha=0.05)
        alone = (treatment.labels_alone - control.labels_alone).interval(alpha=0.05)
        tally += (
            sum(total.n_labelled for total in totals),
            interval.lower <= truth <= interval.upper,
            1 - (interval.upper - interval.lower) / (alone.upper - alone.lower),
            covered_at_every_look,
            first_look,
        )
    shares: list[float] = [*(tally / draws).tolist(), abs(naive - truth) < 1.96 * error, naive - truth]
    return Result(f"{model} - control", *shares)


def _judge_covers(judge: FloatArray, truth: float) -> bool:
    """Return whether the interval of the judge's mean, taken at face value, covers the truth."""
    error = float(judge.std(ddof=1)) / math.sqrt(len(judge))
    return abs(float(judge.mean()) - truth) < 1.96 * error


def results(responses: Responses, draws: int = DRAWS) -> Iterator[Result]:
    """Measure the mean of all responses, of each model, and the differences from the control."""
    yield quality(responses, "all responses", draws=draws)
    models = sorted(set(responses.model.tolist()))
    for model in models:
        yield quality(responses.of(model), model, draws=draws)
    for model in models:
        if model != CONTROL:
            yield difference(responses, model, draws=draws)


def main(scores: Path = SCORES, draws: int = DRAWS) -> None:
    """Print the table, or say that the data are missing."""
    if not scores.exists():
        print(f"skipped: {scores} is missing; it holds scores of two models for the same responses")
        return
    rows = [
        [
            result.name,
            f"{result.labels:.0f}",
            f"{result.covered:.1%}",
            f"{result.narrower:.0%}",
            f"{result.covered_at_every_look:.1%}",
            f"{result.first_look:.1f}",
            f"{result.judge_bias:+.3f}",
            f"{result.judge_covered:.0%}",
        ]
        for result in results(read(scores), draws)
    ]
    columns = ["mean of", "labels", "one look covers", "narrower by", "every look covers", "from look"]
    harness.show(
        f"Quality from {LABEL_RATE:.0%} labels over {draws} draws",
        [*columns, "judge is off by", "judge covers"],
        rows,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--draws", type=int, default=DRAWS)
    parser.add_argument("--scores", type=Path, default=SCORES)
    arguments = parser.parse_args()
    main(arguments.scores, arguments.draws)
