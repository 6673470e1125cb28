"""Rollouts: false and missed rollbacks, and how many units a bad canary sees, through verdicts and decider.

`make bench-rollouts` prints the tables of docs/explanation/rollouts.md. Seeds are fixed; `--quick` is a tenth
of the size. Exit status 1 if a figure misses its threshold.
"""

import csv
import functools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rich_click as click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.analysis.harm.question import Baseline
from app.analysis.observed import Cell, Observed
from app.rollouts.decide import decide
from app.rollouts.model import PRESETS, Completed, Guardrail, RolledBack, RolloutPlan, Running, Stage
from app.rollouts.steps import after
from app.rollouts.verdicts import read
from benchmarks.rollout_extremes import extreme_rows
from benchmarks.rollout_rules import RULES, Requests, clairvoyant
from benchmarks.rollout_simulation import HEALTHY, START, Outcome, World, plan_for, planned_units, simulate
from benchmarks.validity import SEED_OFFSET, Row, at_least, at_most, generator
from stats.sprt import BernoulliSprt, NormalSprt, WaldLimits
from stats.totals import MeanTotals

JUDGE_SCORES = Path(__file__).parents[2] / "shared" / "data" / "llm_judge_scores.csv"


Tick = Callable[[int], None]


def nothing(_: int) -> None:
    """Of progress that nobody watches."""


class Figures(NamedTuple):
    """What came of the runs of one scenario."""

    runs: int
    rolled_back: float
    completed: float
    waiting: float
    median_units: float
    p90_units: float


def figures(outcomes: list[Outcome]) -> Figures:
    ends = Counter(one.end for one in outcomes)
    back = [one.canary_units for one in outcomes if one.end == "rolled_back"]
    n = len(outcomes)
    return Figures(
        n,
        ends["rolled_back"] / n,
        ends["completed"] / n,
        ends["waiting"] / n,
        float(np.median(back)) if back else float("nan"),
        float(np.quantile(back, 0.9)) if back else float("nan"),
    )


# The whole ramp

REGRESSIONS = {
    "errors 1 % -> 3 %": World(error=0.03),
    "errors 1 % -> 5 %": World(error=0.05),
    "latency + 15 %": World(mean=1.15),
    "latency + 30 %": World(mean=1.3),
    "spread only, sigma 0.5 -> 0.7": World(sigma=0.7),
}
DETECTED = ("errors 1 % -> 3 %", "latency + 15 %")
TRAFFIC = (1_000, 10_000, 100_000)


def ramp(
    canary: Callable[[int], World],
    *,
    runs: int,
    seed: int,
    times: float,
    only: tuple[str, ...] = (),
    tick: Tick = nothing,
) -> list[Outcome]:
    """The default ramp at `times` the traffic that the planner asks for."""
    plan = plan_for(only=only)
    planned = planned_units(plan)
    return list(
        simulate(
            plan,
            HEALTHY,
            canary,
            runs=runs,
            units=tuple(round(times * one) for one in planned),
            per_day=times * planned[0] / plan.stages[0].share,
            rng=generator(seed),
            progress=tick,
        )
    )


def optimal(metric: str, alpha: float) -> float:
    """Expected units of the optimal test of just this effect (errors 1 % -> 3 %, latency + 15 %).

    Wald's, at errors (alpha, 0.01), for somebody who knows the control exactly. Latency: of its logarithm,
    which is normal.
    """
    limits = WaldLimits(alpha, 0.01)
    if metric == "error_rate":
        return BernoulliSprt(0.01, (0.03,), limits).operating_characteristic(0.03).expected_n
    step = math.log(1.15) / HEALTHY.sigma
    return NormalSprt(0.0, step, 1.0, limits).operating_characteristic(step).expected_n


def broken_later(stage: int) -> World:
    """Healthy in the first stage, errors 5 % from the second on."""
    return HEALTHY if stage == 0 else World(error=0.05)


@functools.cache
def regressed(name: str, runs: int) -> Figures:
    """The default ramp of a bad canary, which two tables show."""
    seed = 503 + list(REGRESSIONS).index(name)
    return figures(ramp(lambda _: REGRESSIONS[name], runs=runs, seed=seed, times=3.0))


def ramp_rows(*, full: bool, tick: Tick) -> Iterator[Row]:
    """The numbers to reach, for rollouts of three guardrails over the whole ramp."""
    runs = 1_000 if full else 100
    planned = figures(ramp(lambda _: HEALTHY, runs=runs, seed=501, times=1.0, tick=tick))
    yield at_least("healthy, planned traffic: reach 100 %", planned.completed, 0.95 if full else 0.9)
    yield at_most("healthy, planned traffic: rolled back", planned.rolled_back, 0.01 if full else 0.03)
    longer = figures(ramp(lambda _: HEALTHY, runs=runs, seed=502, times=10.0, tick=tick))
    yield at_most("healthy, ten times the traffic: rolled back", longer.rolled_back, 0.01 if full else 0.03)
    faster = figures(ramp(lambda _: World(mean=0.95), runs=runs, seed=521, times=3.0, tick=tick))
    yield at_most("healthy, 5 % faster: rolled back", faster.rolled_back, 0.01)
    for name in REGRESSIONS:
        found = regressed(name, runs)
        tick(runs)
        least = 0.99 if full and name in DETECTED else 0.95
        yield at_least(f"{name}: rolled back", found.rolled_back, least)
    late = ramp(broken_later, runs=runs, seed=520, times=3.0, tick=tick)
    after = np.median([one.stage_units for one in late if one.end == "rolled_back"])
    name = f"errors 5 % from the second stage on: rolled back, median {after:.0f} units after"
    yield at_least(name, figures(late).rolled_back, 0.95)


AT_MARGIN = {
    "error_rate": World(error=0.03),
    "latency": World(mean=1.10),
    "latency_p95": World(sigma=0.6722),  # the mean is the same, the 95th percentile 1.2 times as high
}


def margin_rows(*, full: bool, tick: Tick) -> Iterator[Row]:
    """How often a canary that is worse by just the margin passes the first stage, each guardrail alone."""
    runs = 1_000 if full else 100
    for seed, (metric, world) in enumerate(AT_MARGIN.items(), start=525):
        found = ramp(lambda _, w=world: w, runs=runs, seed=seed, times=3.0, only=(metric,), tick=tick)
        passed = sum(one.stage > 0 for one in found) / runs
        yield at_most(f"{metric} worse by just the margin: passes the first stage", passed, 0.05)


def optimum_rows(*, full: bool, tick: Tick) -> Iterator[Row]:
    """Median units to rollback beside the optimal test, alone and as one of three guardrails."""
    runs = 1_000 if full else 200
    worlds = {"error_rate": World(error=0.03), "latency": World(mean=1.15)}
    for seed, (metric, world) in enumerate(worlds.items(), start=530):
        for only, alpha in (((metric,), 0.01), ((), 0.01 / 3)):
            found = figures(ramp(lambda _, w=world: w, runs=runs, seed=seed, times=3.0, only=only, tick=tick))
            best = optimal(metric, alpha)
            which = "alone" if only else "of three guardrails"
            name = f"{metric} {which}: median {found.median_units:.0f}, optimal SPRT {best:.0f}: ratio"
            yield at_most(name, found.median_units / best, 1.5)
            yield at_least(f"{metric} {which}: detected", found.rolled_back, 0.99 if full else 0.97)


def exposures(*, full: bool, tick: Tick) -> Iterator[tuple[str, float, float]]:
    """(regression, median and 90 % quantile of the canary's units before it is rolled back)."""
    runs = 1_000 if full else 100
    for name in REGRESSIONS:
        found = regressed(name, runs)
        tick(runs)
        yield name, found.median_units, found.p90_units


# Single guardrails at 95/5

SINGLE = (
    # metric, control, canary, requests of the canary, limits of median, 90 % quantile, share rolled back
    ("error_rate", World(), World(), 100_000, None, None, 0.01),
    ("error_rate", World(), World(error=0.03), 10_000, 900, 1_500, None),
    ("error_rate", World(error=0.005), World(error=0.025), 10_000, 800, None, None),
    ("error_rate", World(), World(error=0.02), 10_000, 2_300, None, None),
    ("latency", World(), World(), 40_000, None, None, 0.01),
    ("latency", World(), World(mean=1.10), 10_000, 700, 1_100, None),
)


def single_rows(*, full: bool, tick: Tick) -> Iterator[Row]:
    """One guardrail at 5 % of the traffic, and no promotion: how late, or how often wrongly, it goes back."""
    runs = 1_000 if full else 100
    for seed, (metric, control, canary, units, median, late, wrong) in enumerate(SINGLE, start=540):
        plan = plan_for(control, only=(metric,), stages=(Stage(share=0.05, duration_s=90 * 86_400.0),))
        outcomes = simulate(
            plan,
            control,
            lambda _, w=canary: w,
            runs=runs,
            units=(units,),
            per_day=units / 0.05 / 91,
            rng=generator(seed),
            progress=tick,
        )
        found = figures(list(outcomes))
        what = {"error_rate": f"errors {control.error:.1%} -> {canary.error:.1%}"}.get(
            metric, f"latency x {canary.mean:.2f}"
        )
        if wrong is not None:
            name = f"healthy, {metric}, {units:,} requests: rolled back"
            yield at_most(name, found.rolled_back, wrong if full else 0.03)
        if median is not None:
            yield at_most(f"{what}: median requests", found.median_units, median)
        if late is not None:
            yield at_most(f"{what}: 90 % quantile", found.p90_units, late)


# One day of one stage, beside other rules

RARE = World(error=0.001)
COMPARED = {
    "healthy": (World(), World()),
    "healthy, errors rare": (RARE, RARE),
    "errors 1 % -> 3 %": (World(), World(error=0.03)),
    "latency + 15 %": (World(), World(mean=1.15)),
    "spread only": (World(), World(sigma=0.7)),
    "rare errors 0.1 % -> 1 %": (RARE, RARE._replace(error=0.01)),
}
SHARE = 0.05
CLAIRVOYANT = "clairvoyant"
"""Who knows the truth: beside the rules, and not one of them."""


class Compared(NamedTuple):
    """Of one rule in one scenario: shares of runs, and requests until the abort."""

    aborted: float
    promoted: float
    median_units: float


def compare(control: World, canary: World, n: int, *, runs: int, seed: int, tick) -> dict[str, Compared]:
    """A canary that gets `n` requests in a day at 5 %: who aborts, and who promotes it at the end."""
    found: dict[str, list[int | None]] = {name: [] for name in (*RULES, CLAIRVOYANT)}
    rng = generator(seed)
    for _ in range(runs):
        ours, theirs = Requests.draw(canary, n, rng), Requests.draw(control, n, rng)
        for name, rule in RULES.items():
            found[name].append(rule(ours, theirs, control))
        found[CLAIRVOYANT].append(clairvoyant(ours, canary, control, alpha=0.01))
        tick(1)
    rows = {
        name: Compared(
            sum(one is not None for one in aborts) / runs,
            sum(one is None for one in aborts) / runs,
            float(np.median([one for one in aborts if one is not None] or [np.nan])),
        )
        for name, aborts in found.items()
    }
    stage = Stage(share=SHARE, duration_s=86_400.0)
    plan = plan_for(control, stages=(stage, Stage(share=1.0)))
    ends = figures(
        list(
            simulate(
                plan,
                control,
                lambda _: canary,
                runs=runs,
                units=(n,),
                per_day=n / SHARE,
                rng=generator(seed + 1),
                progress=tick,
            )
        )
    )
    return {"Wald": Compared(ends.rolled_back, ends.completed, ends.median_units), **rows}


# Real judge scores


def judge_scores() -> dict[tuple[str, str], np.ndarray]:
    """(judge, model) -> scores on 1,024 tasks."""
    scores: dict[tuple[str, str], list[float]] = {}
    with JUDGE_SCORES.open() as lines:
        for row in csv.DictReader(lines):
            scores.setdefault((row["judge"], row["model"]), []).append(float(row["score"]))
    return {key: np.array(values) for key, values in scores.items()}


JUDGE_STAGES = (
    Stage(share=0.05, duration_s=0.0),
    Stage(share=0.25, duration_s=0.0),
    Stage(share=0.5, duration_s=0.0),
    Stage(share=1.0),
)


def replay(control: np.ndarray, canary: np.ndarray, *, rng: np.random.Generator, per_stage: int) -> Outcome:
    """A rollout judged by real scores, drawn with replacement from those of two real models."""
    baseline = Baseline(float(control.mean()), float(control.std(ddof=1)))
    guardrail = Guardrail(metric=PRESETS["judge_score"], baseline=baseline)
    plan = RolloutPlan(canaries=("new",), guardrails=(guardrail,), stages=JUDGE_STAGES)
    state = Running(stage=0, entered_at=START, epoch=1, canaries=("new",))
    cells: list[Cell] = []
    before = 0
    for index, stage in enumerate(plan.measured_stages):
        ratio = (1 - stage.share) / stage.share
        arms = {
            "old": rng.choice(control, round(per_stage * ratio)),
            "new": rng.choice(canary, per_stage),
        }
        for n in range(20, per_stage + 1, 20):
            table = [
                *cells,
                *(
                    Cell(index + 1, arm, units, {"judge_score": MeanTotals.from_observations(values[:units])})
                    for arm, values, units in (
                        ("old", arms["old"], round(n * ratio)),
                        ("new", arms["new"], n),
                    )
                ),
            ]
            now = START + timedelta(minutes=n)
            observed = Observed(variants=("old", "new"), control="old", cells=table)
            reading = read(plan, state, observed, findings=(), now=now, as_of=now)
            following = after(state, decide(plan, state, reading, now), at=now, epoch=index + 2)
            if following != state:
                break
        else:
            return Outcome("waiting", index, before + per_stage, per_stage, "")
        before += n
        if isinstance(following, RolledBack):
            return Outcome("rolled_back", index, before, n, "judge_score")
        if isinstance(following, Completed):
            return Outcome("completed", index, before, n, "")
        state, cells = following, table
    raise AssertionError("the last measured stage completes or waits")


def judge_pairs(scores) -> list[tuple[str, str, str]]:
    """(judge, control, canary): for each judge the best model and weaker ones, both ways round."""
    pairs = []
    for judge in sorted({judge for judge, _ in scores}):
        ranked = sorted((m for j, m in scores if j == judge), key=lambda m: scores[judge, m].mean())
        best = ranked[-1]
        pairs.append((judge, best, best))
        for other in (ranked[0], ranked[len(ranked) // 2]):
            pairs += [(judge, best, other), (judge, other, best)]
    return pairs


def judge_rows(*, full: bool, tick: Tick) -> Iterator[Row]:
    """A weaker real model is rolled back, a better one promoted; a model beside itself is promoted."""
    if not JUDGE_SCORES.exists():
        return
    scores, runs = judge_scores(), 200 if full else 30
    for seed, (judge, control, canary) in enumerate(judge_pairs(scores), start=560):
        rng = generator(seed)
        ours, theirs = scores[judge, canary], scores[judge, control]
        found = figures([replay(theirs, ours, rng=rng, per_stage=1_000) for _ in range(runs)])
        tick(runs)
        worse = ours.mean() < theirs.mean()
        units = f", median {found.median_units:.0f} units" if worse else ""
        name = f"{judge}: {control} {theirs.mean():.2f} -> {canary} {ours.mean():.2f}{units}"
        yield at_least(
            name, found.rolled_back if worse else found.completed, 0.95 if ours is theirs else 0.99
        )


# Tables

PARTS = {
    "ramp": ramp_rows,
    "margin": margin_rows,
    "optimum": optimum_rows,
    "single": single_rows,
    "judge": judge_rows,
    "extremes": extreme_rows,
}


def show_rows(console: Console, rows: list[tuple[str, Row]]) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("part", "what", "measured", "threshold", ""):
        shown.add_column(column, justify="right" if column in ("measured", "threshold") else "left")
    for part, row in rows:
        style = "" if row.passed else "bold red"
        verdict = "pass" if row.passed else "MISSED"
        shown.add_row(part, row.name, f"{row.measured:,.4g}", row.threshold, verdict, style=style)
    console.print(shown)


def show_exposures(console: Console, found: list[tuple[str, float, float]]) -> None:
    shown = Table(title="A bad canary at 1 %, before it is rolled back", box=None, pad_edge=False)
    for column in ("regression", "units (median)", "units (90 %)", *(f"at {n:,} a day" for n in TRAFFIC)):
        shown.add_column(column, justify="left" if column == "regression" else "right")
    for name, median, late in found:
        days = [median / (0.01 * n) for n in TRAFFIC]
        times = [f"{one:.1f} days" if one >= 2 else f"{24 * one:.1f} h" for one in days]
        shown.add_row(name, f"{median:,.0f}", f"{late:,.0f}", *times)
    console.print(shown)


def show_comparison(console: Console, per_day: int, table: dict[str, dict[str, Compared]], runs: int) -> None:
    title = f"{per_day:,} requests a day, 5 % to the canary for a day ({SHARE * per_day:,.0f}), {runs:,} runs"
    shown = Table(
        title=f"{title}: aborted / promoted / median requests until the abort", box=None, pad_edge=False
    )
    shown.add_column("scenario")
    for rule in ("Wald", *RULES, CLAIRVOYANT):
        shown.add_column(rule, justify="right")
    for name, rules in table.items():
        cells = []
        for rule in ("Wald", *RULES, CLAIRVOYANT):
            one = rules[rule]
            units = "-" if math.isnan(one.median_units) else f"{one.median_units:,.0f}"
            cells.append(f"{one.aborted:.1%} / {one.promoted:.1%} / {units}")
        shown.add_row(name, *cells)
    console.print(shown)


def comparison_rows(per_day: int, table: dict[str, dict[str, Compared]]) -> Iterator[Row]:
    """No other rule aborts fewer healthy canaries, and none promotes fewer bad ones."""
    for name, rules in table.items():
        field = "aborted" if name.startswith("healthy") else "promoted"
        best = min(getattr(rules[rule], field) for rule in RULES)
        yield at_most(f"{per_day:,} a day, {name}: {field}", getattr(rules["Wald"], field), best)


COMPARED_RUNS = {1_000: 1_000, 10_000: 1_000, 100_000: 400, 1_000_000: 60}


@click.command()
@click.option("--quick", is_flag=True, help="A tenth of the size: a minute or two.")
@click.option("--seed-offset", type=int, default=0, show_default=True, help="Added to every seed.")
@click.option("--only", default="", help="Only parts whose name holds this text.")
def main(*, quick: bool, seed_offset: int, only: str) -> None:
    """Measure rollouts: false and missed rollbacks, units to rollback, other rules, real judge scores."""
    SEED_OFFSET.set(seed_offset)
    console = Console(width=None if sys.stdout.isatty() else 170)
    rows: list[tuple[str, Row]] = []
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )
    with bar:
        for name, part in PARTS.items():
            if only in name:
                task = bar.add_task(name, total=None)
                for found in part(full=not quick, tick=lambda n, task=task: bar.advance(task, n)):
                    rows.append((name, found))
                    bar.update(task, description=f"{name}: {found.name}")
        if only in "exposure":
            task = bar.add_task("exposure", total=None)
            exposed = list(exposures(full=not quick, tick=lambda n: bar.advance(task, n)))
        compared: dict[int, dict[str, dict[str, Compared]]] = {}
        for per_day, runs in COMPARED_RUNS.items() if only in "comparison" else ():
            size = max(runs // 10, 10) if quick else runs
            task = bar.add_task(f"comparison: {per_day:,} a day", total=2 * size * len(COMPARED))
            compared[per_day] = {
                name: compare(
                    control,
                    canary,
                    round(SHARE * per_day),
                    runs=size,
                    seed=600 + 10 * seed,
                    tick=lambda n, task=task: bar.advance(task, n),
                )
                for seed, (name, (control, canary)) in enumerate(COMPARED.items())
            }
    if not quick:  # in few runs every rule may be lucky
        rows += [("comparison", row) for n, table in compared.items() for row in comparison_rows(n, table)]
    show_rows(console, rows)
    if only in "exposure":
        show_exposures(console, exposed)
    for per_day, table in compared.items():
        show_comparison(console, per_day, table, COMPARED_RUNS[per_day] // (10 if quick else 1))
    missed = [row for _, row in rows if not row.passed]
    console.print(f"{len(rows) - len(missed)} of {len(rows)} rows hold; seeds {seed_offset} + 20260101 + k")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
