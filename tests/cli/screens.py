"""What each command shows, on made-up results: `python -m tests.cli.screens` writes the golden files."""

import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from rich.console import Console, Group, RenderableType

from app.access.model import KeyKind, Scope, StoredKey
from app.analysis.aa import Aa, AaRate, MetricAa, sentence
from app.analysis.integrity import Finding
from app.analysis.readout.record import (
    Leader,
    MetricReadout,
    Progress,
    Readout,
    Recommendation,
    SegmentEffect,
    VariantReadout,
)
from app.analysis.series import Point, Series, VariantSeries
from app.analysis.signals import OtherSignals, Signal, SignalsReport
from app.cli import display
from app.cli.checks import Finding as Examined
from app.cli.checks import Verdict
from app.cli.client import Status, VariantStatus
from app.cli.doctor import findings_table
from app.cli.experiments import experiments_table
from app.cli.files.logged import LoggedRewards, Task
from app.cli.keys import keys_table
from app.cli.traffic.product import PROMPTS
from app.cli.traffic.replay import Draw, ReplayResult
from app.cli.webhooks import webhooks_table
from app.evaluation.model import Estimate, Evaluation, Overlap
from app.experiments.metrics import Margin, Mean, Metric, Proportion
from app.experiments.plan import AnalysisPlan
from app.planning.model import Advice, BestFound, Curve, PolicyResult, SimulationResult
from app.planning.power import answer, question_of
from app.quality.model import GUARANTEE, Contrast, Judge, LabelPlan, QualityReport, VariantQuality
from app.rollouts.life import Looked, Rollout
from app.rollouts.model import Guardrail, GuardrailReading, Hold, Reading, RolloutPlan, Running
from app.webhooks.model import Adapter, Endpoint

AT = datetime(2026, 1, 1, 8, tzinfo=UTC)
WIDTHS = (80, 100, 160)
json = msgspec.json.encode
GOLDEN = Path(__file__).with_name("golden")


class Made(NamedTuple):
    """Names and numbers from which all screens are made; the first name is the control's."""

    names: Sequence[str] = ("control", "summary-prompt-v2-with-citations", "short")
    metric: str = "latency"
    units: int = 12_345
    value: float = 1_234.5678
    effect: float = 0.012345


def screens(made: Made) -> Mapping[str, RenderableType]:
    """What each command prints."""
    return {
        "analyze": display.readout.readout_report(_readout(made)),
        "series": display.series.report(json(_series(made))),
        "quality": display.quality.report(json(_quality(made))),
        "signals": display.signals.report(json(_signals(made))),
        "simulate": display.simulate.report(_simulated(made)),
        "demo": _demo(made),
        "rollout show": display.rollout.rollout_report(_rollout(made)),
        "replay": display.traffic.replay_report(_replayed(made)),
        "status": display.status.report(json(_status(made)), b'{"rollouts": []}'),
        "power": _power(),
        "evaluate": display.evaluate.report(json(_evaluated(made))),
        "aa": display.aa.report(_aa(made)),
        "experiments list": experiments_table(_experiments(made)),
        "doctor": findings_table(_examined()),
        "keys list": keys_table(_keys(made)),
        "webhooks list": webhooks_table(_webhooks(made)),
    }


def shown(renderable: RenderableType, width: int) -> str:
    """The text on a terminal of this width."""
    text = io.StringIO()
    console = Console(file=text, width=width, highlight=False, emoji=False, markup=False)
    console.print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


def _readout(made: Made) -> Readout:
    return Readout(
        control=made.names[0],
        plan=AnalysisPlan(),
        adaptive=False,
        units=made.units * len(made.names),
        metrics=(
            _metric(made, "thumbs_up", "proportion", 0.31234),
            _metric(made, made.metric, "mean", made.value),
        ),
        leader=Leader(variant=made.names[1], declared=True, level=0.025, undecided=()),
        integrity=(Finding(kind="sample_ratio", severity="fine", detail="the split is as drawn: p = 0.4"),),
        progress=Progress(
            units=made.units, expected_units=40_000, share=0.31, units_to_decide=20_000, days_left=2.5
        ),
        recommendation=Recommendation(
            action="ship", variant=made.names[1], sentence="Ship the better one.", reasons=("it is better",)
        ),
    )


def _metric(made: Made, key: str, kind: str, estimate: float) -> MetricReadout:
    control = VariantReadout(variant=made.names[0], control=True, units=made.units, missing=0)
    control = msgspec.structs.replace(control, estimate=estimate)
    others = [
        VariantReadout(
            variant=name,
            control=False,
            units=made.units,
            missing=12,
            estimate=estimate,
            control_estimate=estimate,
            effect=made.effect,
            interval=(made.effect / 2, made.effect * 1.5),
            relative_effect=made.effect,
            relative_interval=(None, made.effect * 2),
            level=0.05,
            e_value=2_345.6,
            p_value=0.000123,
            verdict="not_enough_data",
            segments=(
                SegmentEffect(
                    segment="mobile",
                    effect=made.effect,
                    interval=(-made.effect, made.effect * 3),
                    pooled_effect=made.effect,
                    pooled_standard_error=0.1,
                ),
            )
            if number == 0
            else (),
            interaction_p_value=0.4,
        )
        for number, name in enumerate(made.names[1:])
    ]
    return MetricReadout(
        key=key,
        kind=kind,
        role="primary",
        direction="higher",
        method="asymptotic confidence sequence",
        guarantee="valid at every look",
        decided_on="difference",
        variants=(control, *others),
    )


def _series(made: Made) -> Series:
    variants = [
        VariantSeries(
            name,
            number == 0,
            [
                Point(
                    at=AT + timedelta(hours=hour),
                    units=made.units,
                    n=made.units,
                    value=made.value * (1 + hour % 5),
                    standard_error=made.effect,
                )
                for hour in range(48)
            ],
        )
        for number, name in enumerate(made.names)
    ]
    end = AT + timedelta(hours=48)
    return Series(
        key="e", metric=made.metric, kind="mean", step_s=3_600, since=AT, until=end, variants=variants
    )


def _quality(made: Made) -> QualityReport:
    judge = Judge(name="helpful", version="0123456789abcdef", trust="calibrated", judgements=9, cost_usd=None)
    text = (
        "40 more labels shrink the interval from ±4.0 to ±2.0 points; 500 more judge calls would do as much"
    )
    plan = LabelPlan(
        half_width=0.04,
        labels=40,
        half_width_then=0.02,
        cost_usd=None,
        judge_calls=500,
        judge_cost_usd=None,
        text=text,
    )
    control, *others = made.names
    first = VariantQuality(
        variant=control,
        control=True,
        judgements=made.units,
        labels=123,
        effective_labels=120.5,
        quality=0.71234,
        interval=(0.67, 0.75),
        judge_mean=0.81,
        removed_bias=0.0977,
        plan=plan,
    )
    contrast = Contrast(effect=made.effect, interval=(-0.05, 0.07), naive=0.2, removed_bias=0.19)
    second = msgspec.structs.replace(first, variant=others[0], control=False, contrast=contrast)
    reason = "needs at least 3 labels, has 0: no response has a human label"
    third = VariantQuality(
        variant=others[-1],
        control=False,
        judgements=made.units,
        labels=0,
        effective_labels=0.0,
        judge_mean=0.8,
        reason=reason,
        contrast=Contrast(naive=-0.01, reason=f"this variant {reason}"),
    )
    return QualityReport(
        experiment="summary-prompt",
        judge=judge,
        judges=[judge],
        level=0.95,
        guarantee=GUARANTEE,
        variants=[first, second, third],
    )


def _signals(made: Made) -> SignalsReport:
    signals = [
        Signal(
            signal=name,
            read=number > 0,
            seen=made.units,
            counted=made.units if number else 0,
            waiting=12,
            late=3,
            early=0,
            unknown_unit=7,
            unknown=0 if number else made.units,
            out_of_range=0,
            lowest=0.0,
            highest=1.0,
            last_at=AT,
            share=0.45 if number else None,
            nearest=None if number else made.names[1],
        )
        for number, name in enumerate(made.names)
    ]
    return SignalsReport(
        key="summary-prompt",
        assignments=made.units,
        seen=made.units,
        counted=made.units,
        unknown_signals=12,
        unknown_units=7,
        signals=signals,
        others=OtherSignals(5, AT),
        warnings=["7 signals name a unit that had no assignment"],
    )


def _simulated(made: Made) -> SimulationResult:
    requests = [250, 500, 1_000]
    results = [
        PolicyResult(
            policy=name,
            lost_rewards=made.units / (number + 1),
            lost_rewards_interval=(made.units / (number + 2), made.units * 1.0),
            lost_rewards_p95=made.units * 2.0,
            lost_share=0.0123,
            best_found=BestFound(share=0.55, days=1.5, requests=500),
            regret=Curve(requests, *([made.units * part / 1_000 for part in requests] for _ in range(3))),
        )
        for number, name in enumerate(made.names)
    ]
    advice = Advice(made.names[0], clear=True, sentence="Use the first one.")
    return SimulationResult(requests=1_000, batch=5, runs=20, seed=1, policies=results, recommendation=advice)


def _variants(made: Made, names: Sequence[str]) -> tuple[VariantStatus, ...]:
    return tuple(
        VariantStatus(
            key=name,
            control=number == 0,
            assignments=made.units,
            rewards=made.units - 45,
            pending=45,
            mean=0.7123,
            interval=(0.6911, 0.7333),
            probability_best=0.975,
            allocation=1 / len(names),
        )
        for number, name in enumerate(names)
    )


def _demo(made: Made) -> RenderableType:
    keys = [prompt.key for prompt in PROMPTS]
    conclusion = "The bandit has converged: b is better than a by 0.1 [0.05, 0.15]. Serve it?"
    status = Status("demo", "running", 17, 0, _variants(made, keys), conclusion)
    served = dict.fromkeys(keys, made.units)
    return Group(
        display.traffic.demo_progress(status, served=2_000, requests=3_000, waiting=12),
        "",
        display.traffic.demo_summary(status, served=served, rewards=[0.5, 1.0]),
    )


def _replayed(made: Made) -> ReplayResult:
    n = len(made.names)
    log = LoggedRewards(
        tuple(made.names), (Task("t", tuple(np.linspace(1.0, 5.0, n).tolist())),), 0, 1.0, 5.0
    )
    keys = tuple(f"v{number}" for number in range(n))
    draws = tuple(Draw(number % n, 0.5) for number in range(200))
    return ReplayResult(log, draws, Status("r", "running", 3, 0, _variants(made, keys)), keys, 1.5, 0, 0)


def _rollout(made: Made) -> Rollout:
    error = Metric(
        key="error_rate",
        measure=Proportion("error", silence=0),
        role="guardrail",
        direction="lower",
        margin=Margin(0.02),
    )
    slow = Metric(
        key=made.metric,
        measure=Mean("latency"),
        role="guardrail",
        direction="lower",
        margin=Margin(0.1, True),
    )
    readings = tuple(
        GuardrailReading(
            metric=metric.key,
            canary=name,
            verdict="not_enough_data",
            control_units=made.units,
            canary_units=made.units,
            control_estimate=estimate,
            canary_estimate=estimate,
            relative=metric is slow,
            effect=made.effect,
            interval=(-made.effect, made.effect),
            units_left=made.units,
        )
        for name in made.names[1:]
        for metric, estimate in ((error, 0.0123), (slow, made.value))
    )
    reading = Reading(guardrails=readings)
    return Rollout(
        id=3,
        experiment="summary-prompt",
        plan=RolloutPlan(
            canaries=tuple(made.names[1:]), guardrails=tuple(Guardrail(metric=one) for one in (error, slow))
        ),
        state=Running(stage=1, entered_at=AT, epoch=2, canaries=tuple(made.names[1:])),
        epoch=2,
        looked=Looked(
            at=AT, decision=Hold(reason="not_enough_data", detail="not enough data"), reading=reading
        ),
        created_by="key 1",
        reason="",
        created_at=AT,
    )


def _status(made: Made) -> dict[str, object]:
    shares = [[1 / len(made.names)] * len(made.names)] * 30
    return {
        "key": "summary-prompt",
        "state": "running",
        "policy_version": 17,
        "epoch": 2,
        "lag_events": 12,
        "totals_as_of": AT,
        "read_at": AT,
        "warnings": ["the ledger is behind"],
        "variants": _variants(made, made.names),
        "allocation_history": [
            {"at": AT + timedelta(hours=hour), "shares": share} for hour, share in enumerate(shares)
        ],
        "conclusion": "Ship the better one. P(best) agrees, but the interval decides.",
        "analysis": _readout(made),
    }


def _power() -> RenderableType:
    question = question_of({"baseline": 0.1, "effect": 0.01, "units_per_day": 5_000})
    return display.power.report(question, answer(question))


def _evaluated(made: Made) -> Evaluation:
    one = Estimate(0.61234, 0.01234, (0.58, 0.63))
    return Evaluation(
        experiment="e",
        policy={"kind": "fixed"},
        summary="fixed would have earned 0.61",
        rows=made.units,
        units=made.units,
        pending=0,
        censored=0,
        sampled=False,
        logged=one,
        estimates={
            "doubly_robust": one,
            "ips": one,
            "self_normalised": one,
            "self_normalised_doubly_robust": one,
        },
        anytime_interval=(0.5, 0.7),
        shares=dict.fromkeys(made.names, 1 / len(made.names)),
        overlap=Overlap(made.units, 567.8, 12.3, 0.0123, 1.0),
        fitted="Nothing was fitted.",
        warnings=["the log says little"],
    )


def _aa(made: Made) -> Aa:
    rate = AaRate.of(8, 200, 0.05)
    metric = MetricAa(
        metric=made.metric,
        role="primary",
        units=made.units,
        noise_floor=made.value,
        relative_noise_floor=0.0123,
        false_positives=rate,
    )
    return Aa(
        key="e",
        units=made.units,
        sampled=True,
        looks=(250, 500),
        first=0,
        replays=200,
        false_positives=rate,
        metrics=(metric,),
        sentence=sentence(rate, 200, made.units),
    )


def _experiments(made: Made) -> list[dict[str, object]]:
    return [
        {
            "key": name,
            "state": "running",
            "policy": {"kind": "optimistic_thompson"},
            "variants": [{}, {}],
            "epoch": 2,
            "started_at": "2026-01-01T08:00:00Z",
            "description": "Which of two prompts answers better, for all users of the summary page",
        }
        for name in made.names
    ]


def _examined() -> list[Examined]:
    durable = "appendfsync everysec, appendonly yes, maxmemory-policy noeviction"
    return [
        Examined("Valkey", Verdict.OK, "Valkey 9.0.1"),
        Examined("Valkey durability", Verdict.WARN, durable, "CONFIG SET appendfsync always"),
        Examined(
            "Schema",
            Verdict.FAIL,
            "empty; this version needs 0031",
            "run `wald migrate`, or a version that knows it",
        ),
        Examined("Disk", Verdict.OK, "123.4 of 567.8 GiB free at /var/lib/wald"),
    ]


def _keys(made: Made) -> list[StoredKey]:
    scopes = frozenset(Scope)
    return [
        StoredKey(number, name, KeyKind.SERVER, scopes, "srv_1234", AT, AT if number % 2 else None)
        for number, name in enumerate(made.names, start=1)
    ]


def _webhooks(made: Made) -> list[Endpoint]:
    return [
        Endpoint(
            id=number,
            url=f"https://hooks.example/{name}",
            adapter=Adapter.STANDARD,
            events=("rollout.*", "experiment.*"),
            description="",
            created_at=AT,
        )
        for number, name in enumerate(made.names, start=1)
    ]


def golden(width: int) -> str:
    """All screens at one width."""
    return "\n".join(f"$ wald {name}\n{shown(screen, width)}" for name, screen in screens(Made()).items())


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for width in WIDTHS:
        (GOLDEN / f"{width}.txt").write_text(golden(width), encoding="utf-8")
