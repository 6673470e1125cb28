"""Rollouts on a terminal. Pure: answers of the server in, rich renderables out."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.amounts import RELATIVE, amounts_of, count, number
from app.cli.client import read
from app.cli.tables import Column, Table, visible
from app.rollouts.life import Rollout
from app.rollouts.model import Completed, Draft, GuardrailReading, Paused, RolledBack, Running
from app.rollouts.routes import DecisionView, RolloutPage


def rollout_of(answer: bytes) -> Rollout:
    """The rollout of an answer."""
    return read(answer, Rollout)


def begun(answer: bytes) -> str:
    """What to do next with a new rollout."""
    made = rollout_of(answer)
    is_draft = isinstance(made.state, Draft)
    done, then = ("is planned. Begin it", "start") if is_draft else ("has begun. Watch it", "watch")
    return f"Rollout {made.id} {done}: wald rollout {then} {made.id}"


def listed(answer: bytes) -> Table:
    """Rollouts, newest first."""
    table = Table(
        Column("id"), Column("experiment", "name"), Column("canaries", "text"), Column("state", "text")
    )
    for one in read(answer, RolloutPage).rollouts:
        table.add(str(one.id), one.experiment, ", ".join(one.plan.canaries), where(one))
    return table


def where(rollout: Rollout) -> str:
    """Where a rollout is, in words."""
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


def report(rollout: Rollout) -> RenderableType:
    """The rollout, and its guardrails as they were last read."""
    canaries = ", ".join(map(visible, rollout.plan.canaries))
    title = Text(f"Rollout {rollout.id} of {rollout.experiment}: {canaries}", "bold")
    parts: list[RenderableType] = [title, Text(where(rollout))]
    looked = rollout.looked
    if looked is None:
        return Group(*parts, Text("not looked at yet"))
    decision = looked.decision
    parts.append(Text(f"{decision.__struct_config__.tag}: {getattr(decision, 'detail', '')}".rstrip(": ")))
    return Group(*parts, Text(""), guardrails_table(rollout, looked.reading.guardrails))


def guardrails_table(rollout: Rollout, readings: Sequence[GuardrailReading]) -> Table:
    """Each guardrail and canary at one look."""
    table = Table(
        Column("guardrail", "name"),
        Column("canary", "name"),
        Column("verdict", "text"),
        *map(Column, ("control", "canary's", "effect", "interval", "units left")),
    )
    kinds = {guardrail.metric.key: guardrail.metric.kind for guardrail in rollout.plan.guardrails}
    for one in readings:
        amounts = amounts_of(kinds.get(one.metric, ""))
        differences = RELATIVE if one.relative else amounts
        table.add(
            one.metric,
            one.canary,
            one.verdict.replace("_", " "),
            amounts.value(one.control_estimate),
            amounts.value(one.canary_estimate),
            differences.difference(one.effect),
            differences.interval(one.interval),
            count(one.units_left),
        )
    return table


def explained(answer: bytes) -> RenderableType:
    """A decision with its evidence, and whether its inputs give it again."""
    found = read(answer, DecisionView)
    taken = found.decision
    decided = f"{taken.decision.__struct_config__.tag} at {taken.at:%Y-%m-%d %H:%M:%S} UTC"
    parts: list[RenderableType] = [Text(f"{decided} by {taken.by or 'Wald'}: {taken.reason}", "bold")]
    if found.receipt is None:
        return Group(*parts, Text("nothing was measured for it"))
    table = Table(
        Column("guardrail", "name"),
        Column("canary", "name"),
        Column("proof", "text"),
        *map(Column, ("statistic", "threshold", "level", "units")),
    )
    for one in found.receipt.reading.guardrails:
        for name, proof in (("harm", one.harm), ("safe", one.safe)):
            if proof is not None:
                table.add(
                    one.metric,
                    one.canary,
                    f"{name}{'' if proof.proven else ' not'} proven ({proof.scale})",
                    number(proof.statistic),
                    number(proof.threshold),
                    f"{proof.level:.3g}",
                    count(one.canary_units),
                )
    parts.append(table)
    differing = f"differs from what its inputs give: {', '.join(found.differs)}"
    again = differing if found.differs else "bit for bit"
    if not found.recomputed:
        again = f"no: Wald {found.receipt.wald} made it by tests that this release does not make"
    return Group(*parts, Text(f"computed again: {again}"))
