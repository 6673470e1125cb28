"""Real judge scores as an experiment between units: the readout beside the truth of all data.

The file has a score of every model for every task, so the truth is known. The experiment gives each
task one of four models at random and keeps only that score. Prints one readout. Over many random
assignments it also prints how often the intervals contain the truth, and what the readout declared.

    python -m benchmarks.judge_readout ../shared/data/llm_judge_scores.csv
"""

import argparse
import csv
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from app.analysis.readout.analyze import analyze
from app.analysis.readout.record import Readout
from app.cli.display.readout import readout_report
from app.cli.files.measurements import Table, read
from app.experiments.metrics import Mean, Metric
from app.experiments.plan import AlwaysValid, AnalysisPlan, Estimator, FixedHorizon
from benchmarks.validity import SEED

JUDGE: Final = "gpt-4o-2024-05-13"
MODELS: Final = ("gemma-2b-it", "Phi-3-mini-128k-instruct", "gpt-3.5-turbo-0125", "Qwen1.5-72B-Chat")
CONTROL: Final = "gpt-3.5-turbo-0125"
METRIC: Final = Metric(key="score", measure=Mean("score", (1.0, 10.0)), role="primary")


def scores(path: Path) -> np.ndarray:
    """Return the scores of the tasks that have one for each model, shape (tasks, models)."""
    by_task: dict[str, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["judge"] == JUDGE and row["model"] in MODELS and row["score"]:
                by_task.setdefault(row["task_id"], {})[row["model"]] = float(row["score"])
    return np.array(
        [[task[model] for model in MODELS] for task in by_task.values() if len(task) == len(MODELS)]
    )


def assigned(table: np.ndarray, seed: int, path: Path) -> None:
    """Write an experiment: each task with one model at random, and its score."""
    drawn = np.random.default_rng(SEED + seed).integers(len(MODELS), size=len(table))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "model", "score"])
        writer.writerows([f"task-{n}", MODELS[arm], table[n, arm]] for n, arm in enumerate(drawn))


def readout_of(path: Path, estimator: Estimator) -> Readout:
    shares = dict.fromkeys(MODELS, 1 / len(MODELS))
    table = Table(unit="task", variant="model", metrics=(METRIC,), control=CONTROL, shares=shares)
    measured = read(path, table)
    units = measured.observed.units() if isinstance(estimator, FixedHorizon) else 1_000
    plan = AnalysisPlan(estimator=estimator, expected_units=units)
    return analyze(plan, measured.metrics, measured.observed)


def covers(readout: Readout, truth: dict[str, float]) -> bool:
    """Return whether every interval contains the difference that all data show."""
    for variant in readout.metrics[0].variants:
        low, high = variant.interval or (None, None)
        difference = truth[variant.variant] - truth[CONTROL]
        if (low is not None and difference < low) or (high is not None and difference > high):
            return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scores", type=Path, help="CSV of judge scores: task_id, judge, model, score")
    table = scores(parser.parse_args().scores)
    truth = dict(zip(MODELS, table.mean(axis=0).tolist(), strict=True))
    best = max(truth, key=lambda model: truth[model])
    print({model: round(mean, 3) for model, mean in truth.items()}, len(table), "tasks")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "experiment.csv"
        assigned(table, 0, path)
        for estimator in (AlwaysValid(), FixedHorizon()):
            Console(width=150).print(readout_report(readout_of(path, estimator)))
        for estimator in (AlwaysValid(), FixedHorizon()):
            tally = np.zeros(3)
            runs = 300
            for seed in range(runs):
                assigned(table, 1_000 + seed, path)
                readout = readout_of(path, estimator)
                assert readout.leader is not None
                declared = readout.leader.declared
                right = readout.leader.variant == best
                tally += covers(readout, truth), declared and right, declared and not right
            kind = type(estimator).__name__
            print(
                kind,
                "all intervals cover, best declared, another declared:",
                (tally / runs).round(3).tolist(),
            )


if __name__ == "__main__":
    main()
