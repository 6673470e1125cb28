"""Rollouts on a terminal."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.client import read
from app.cli.display.amounts import RELATIVE, amounts_of, count, number
from app.cli.display.tables import Column, Table, visible
from app.rollouts.life import Rollout
from app.rollouts.model import Completed, Draft, GuardrailReading, Paused, RolledBack, Running
from app.rollouts.routes import DecisionView, RolloutPage


def created(answer: bytes) -> str:
    """Say what to do next with a new rollout."""
    rollout = read(answer, Rollout)
    is_draft = isinstance(rollout.state, Draft)
    state, command = ("is a draft. Start it", "start") if is_draft else ("has started. Watch it", "watch")
    return f"Rollout {rollout.id} {state}: wald rollout {command} {rollout.id}"


def listed(answer: bytes) -> Table:
    """Return a table of a page of rollouts."""
    table = Table(
        Column("id"), Column("experiment", "name"), Column("canaries", "text"), Column("state", "text")
    )
    for rollout in read(answer, RolloutPage).rollouts:
        table.add(str(rollout.id), rollout.experiment, ", ".join(rollout.plan.canaries), position(rollout))
    return table


def stage(answer: bytes) -> str:
    """Say which state and stage a rollout is in."""
    rollout = read(answer, Rollout)
    return f"Rollout {rollout.id}: {position(rollout)}"


def ended(answer: bytes) -> bool | None:
    """Return True if the rollout was completed, False if it was rolled back, and None before its end."""
    match read(answer, Rollout).state:
        case Completed():
            return True
        case RolledBack():
            return False
        case _:
            return None


def report(answer: bytes) -> RenderableType:
    """Return a rollout, and its guardrails as of the last look."""
    return rollout_report(read(answer, Rollout))


def position(rollout: Rollout) -> str:
    """Return the state and stage of a rollout in words."""
    match rollout.state:
        case Draft():
            return "draft"
        case Running(stage=stage):
            return f"stage {stage + 1} of {len(rollout.plan.stages)}, {rollout.plan.stages[stage].share:.0%}"
        case Paused(running=running):
            return f"paused in stage {running.stage + 1} of {len(rollout.plan.stages)}"
        case RolledBack(stage=stage):
            return f"rolled back in stage {stage + 1}"
        case Completed():
            return "completed"


def rollout_report(rollout: Rollout) -> RenderableType:
    """Return a rollout, and its guardrails as of the last look."""
    canaries = ", ".join(map(visible, rollout.plan.canaries))
    title = Text(f"Rollout {rollout.id} of {rollout.experiment}: {canaries}", "bold")
    parts: list[RenderableType] = [title, Text(position(rollout))]
    looked = rollout.looked
    if looked is None:
        return Group(*parts, Text("not looked at yet"))
    decision = looked.decision
    parts.append(Text(f"{decision.__struct_config__.tag}: {getattr(decision, 'detail', '')}".rstrip(": ")))
    return Group(*parts, Text(""), guardrails_table(rollout, looked.reading.guardrails))


def guardrails_table(rollout: Rollout, readings: Sequence[GuardrailReading]) -> Table:
    """Return a table of each guardrail and canary at one look."""
    table = Table(
        Column("guardrail", "name"),
        Column("canary", "name"),
        Column("verdict", "text"),
        *map(Column, ("control mean", "canary mean", "effect", "interval", "units left")),
    )
    kinds = {guardrail.metric.key: guardrail.metric.kind for guardrail in rollout.plan.guardrails}
    for reading in readings:
        amounts = amounts_of(kinds.get(reading.metric, ""))
        differences = RELATIVE if reading.relative else amounts
        table.add(
            reading.metric,
            reading.canary,
            reading.verdict.replace("_", " "),
            amounts.value(reading.control_estimate),
            amounts.value(reading.canary_estimate),
            differences.difference(reading.effect),
            differences.interval(reading.interval),
            count(reading.units_left),
        )
    return table


def explained(answer: bytes) -> RenderableType:
    """Return a decision with its evidence, and whether its stored inputs give the same decision."""
    view = read(answer, DecisionView)
    taken = view.decision
    decided = f"{taken.decision.__struct_config__.tag} at {taken.at:%Y-%m-%d %H:%M:%S} UTC"
    parts: list[RenderableType] = [Text(f"{decided} by {taken.by or 'Wald'}: {taken.reason}", "bold")]
    if view.receipt is None:
        return Group(*parts, Text("the decision needed no measurement"))
    table = Table(
        Column("guardrail", "name"),
        Column("canary", "name"),
        Column("proof", "text"),
        *map(Column, ("statistic", "threshold", "level", "units")),
    )
    for reading in view.receipt.reading.guardrails:
        for name, proof in (("harm", reading.harm), ("safe", reading.safe)):
            if proof is not None:
                table.add(
                    reading.metric,
                    reading.canary,
                    f"{name}{'' if proof.proven else ' not'} proven ({proof.scale})",
                    number(proof.statistic),
                    number(proof.threshold),
                    f"{proof.level:.3g}",
                    count(reading.canary_units),
                )
    parts.append(table)
    if not view.recomputed:
        again = f"not possible: Wald {view.receipt.wald} used tests that this release does not have"
    elif view.differs:
        again = f"differs in {', '.join(view.differs)}"
    else:
        again = "equal bit for bit"
    return Group(*parts, Text(f"computed again: {again}"))
