"""Judges and judging rules on a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.client import read
from app.cli.display.amounts import MISSING, count, decimal, interval, minute, number, percent
from app.cli.display.tables import Column, Table, visible
from app.judging.judges.model import Judged
from app.judging.judges.service import Preflight
from app.judging.report_service import VersionDiff, VersionReport, VersionView
from app.judging.reports import Difference, VariantScore
from app.judging.routes import JudgeList, RuleList, VersionList
from app.judging.rule_service import Funnel, RuleView

HASH_LENGTH = 12
"""Characters of a hash that are shown."""


def listed(answer: bytes) -> RenderableType:
    """Return a table of the judges."""
    judges = read(answer, JudgeList).judges
    if not judges:
        return "There are no judges yet. Add one: wald judge add FILE"
    table = Table(
        Column("judge", "name"),
        Column("kind", "text"),
        Column("axis", "text"),
        Column("versions"),
        Column("newest", "text"),
        Column("promoted", "text"),
    )
    for judge in judges:
        promoted = judge.promoted[:HASH_LENGTH] if judge.promoted else "none"
        newest = judge.newest[:HASH_LENGTH]
        table.add(judge.judge, judge.kind, judge.axis, count(judge.versions), newest, promoted)
    return table


def added(answer: bytes) -> str:
    """Say which version a definition is, and what to do next."""
    view = read(answer, VersionView)
    return (
        f"{visible(view.judge)} {view.version} is in {view.trust}. "
        f"Let it score responses: wald judge use {visible(view.judge)} EXPERIMENT"
    )


def trusted(answer: bytes) -> str:
    """Say what the trust in a version is now."""
    view = read(answer, VersionView)
    signal = f"; its scores are the signal {view.signal}" if view.trust == "promoted" else ""
    return f"{visible(view.judge)} {view.version[:HASH_LENGTH]} is {view.trust}{signal}"


def checked(result: Preflight) -> str:
    """Say what came out of a trial."""
    cost = MISSING if result.cost_usd is None else f"{number(result.cost_usd)} USD"
    if isinstance(result.judgement, Judged):
        label = "" if result.judgement.label is None else f", label {result.judgement.label}"
        verdict = f"score {decimal(result.judgement.score)}{label}"
    else:
        detail = f": {visible(result.judgement.detail)}" if result.judgement.detail else ""
        verdict = f"no score, {result.judgement.reason.replace('_', ' ')}{detail}"
    lines = [f"{verdict} ({result.seconds:.2f} s, cost {cost})"]
    if result.mode is not None:
        refused = f"; refused: {', '.join(result.refused)}" if result.refused else ""
        lines.append(f"structured output: {result.mode}{refused}")
    if isinstance(result.judgement, Judged) and result.judgement.reasons:
        lines.append(f"reasons: {visible(result.judgement.reasons)}")
    return "\n".join(lines)


def versions(answer: bytes) -> RenderableType:
    """Return a table of the versions of a judge."""
    listing = read(answer, VersionList)
    table = Table(
        Column("version", "name"),
        Column("trust", "text"),
        Column("since (UTC)"),
        Column("breaker", "text"),
        Column("kind", "text"),
        Column("created (UTC)"),
    )
    for view in listing.versions:
        table.add(
            view.version[:HASH_LENGTH],
            view.trust,
            minute(view.trust_since),
            view.breaker.state.replace("_", " "),
            view.kind,
            minute(view.created_at),
        )
    return Group(Text(visible(listing.judge), "bold"), table)


def report(answer: bytes) -> RenderableType:
    """Return the report of a version."""
    shown = read(answer, VersionReport)
    view, usage = shown.version, shown.usage
    title = Text(f"{visible(view.judge)} {view.version[:HASH_LENGTH]}: {view.trust}", "bold")
    facts = [
        _breaker(shown),
        f"{count(usage.judged)} judged, {count(usage.unscored)} unscored, {count(usage.wanted)} waiting",
        f"{count(usage.calls)} calls, {number(usage.cost_usd)} USD, {count(usage.unpriced)} without a price",
        f"a call takes {_seconds(usage.median_s)} (median), {_seconds(usage.p95_s)} (95th percentile)",
        _flips(shown),
        _length_bias(shown),
        _gate(shown),
    ]
    reasons = [Text(f"  {visible(reason)}") for reason in shown.calibration.reasons]
    parts: list[RenderableType] = [title, *map(Text, facts), *reasons]
    for effect in shown.effects:
        parts += ["", Text(f"scores in {visible(effect.experiment)}", "bold"), _scores(effect.variants)]
    for would in shown.would_change:
        parts += ["", Text(f"instead of the promoted version, in {visible(would.experiment)}:", "bold")]
        parts.append(_difference_table([would]))
    return Group(*parts)


def difference(answer: bytes) -> RenderableType:
    """Return the comparison of two versions."""
    diff = read(answer, VersionDiff)
    title = f"{visible(diff.judge)}: {diff.a[:HASH_LENGTH]} (a) and {diff.b[:HASH_LENGTH]} (b)"
    flips = f"{count(diff.flips)} of {count(diff.compared)} verdicts differ"
    costs = f"a judgement costs {_usd(diff.cost_usd_a)} (a), {_usd(diff.cost_usd_b)} (b)"
    return Group(Text(title, "bold"), Text(flips), Text(costs), "", _difference_table(diff.experiments))


def rules(answer: bytes) -> RenderableType:
    """Return the rules of an experiment with their funnels."""
    listing = read(answer, RuleList).rules
    if not listing:
        return "No judge scores this experiment. Let one: wald judge use NAME EXPERIMENT"
    table = Table(
        Column("id"),
        Column("judge", "name"),
        Column("version", "text"),
        Column("state", "text"),
        *map(Column, ("rate", "expected", "judged", "waiting", "today USD")),
        Column("not judged", "text"),
    )
    for view in listing:
        table.add(
            str(view.id),
            view.judge,
            f"{view.version[:HASH_LENGTH]} {view.trust}",
            view.state,
            percent(view.rate),
            count(view.funnel.expected),
            count(view.funnel.judged),
            count(view.funnel.waiting + view.funnel.sampling),
            number(view.today.cost_usd),
            _reasons(view.funnel),
        )
    warnings = [
        Text(f"rule {view.id}: {visible(warning)}", "yellow") for view in listing for warning in view.warnings
    ]
    return Group(table, *warnings)


def rule(answer: bytes) -> str:
    """Say what a rule does or did."""
    view = read(answer, RuleView)
    reasons = _reasons(view.funnel)
    return (
        f"Rule {view.id} ({visible(view.judge)} {view.version[:HASH_LENGTH]}) is {view.state}: "
        f"{count(view.funnel.judged)} of {count(view.funnel.expected)} responses judged"
        + (f"; not judged: {reasons}" if reasons else "")
    )


def estimated(estimate: Mapping[str, Any]) -> str:
    """Say what a retrospective rule will do and cost."""
    cost = estimate["cost_usd"]
    money = "at an unknown cost" if cost is None else f"for about {number(cost)} USD"
    return f"{count(estimate['judgements'])} of {count(estimate['responses'])} stored responses {money}"


def share_done(view: Mapping[str, Any]) -> float:
    """Return the share of a retrospective rule that is done, from 0 to 1."""
    funnel = view["funnel"]
    done: float = 1 - (funnel["waiting"] + funnel["sampling"]) / max(1, funnel["expected"])
    return done if view["state"] != "active" else 0.99 * done


def _difference_table(differences: list[Difference]) -> Table:
    table = Table(
        Column("experiment", "name"),
        Column("variant", "name"),
        *map(Column, ("compared", "flips", "mean a", "mean b", "effect a", "effect b")),
        Column("sign turns", "text"),
    )
    for each in differences:
        for first, second in zip(each.a, each.b, strict=True):
            table.add(
                each.experiment,
                first.variant,
                count(each.compared),
                count(each.flips),
                decimal(first.mean),
                decimal(second.mean),
                number(first.effect, signed=True),
                number(second.effect, signed=True),
                "yes" if first.variant in each.turned else "",
            )
    return table


def _scores(variants: tuple[VariantScore, ...]) -> Table:
    table = Table(Column("variant", "name"), *map(Column, ("judged", "mean score", "effect")))
    for each in variants:
        table.add(each.variant, count(each.judged), decimal(each.mean), number(each.effect, signed=True))
    return table


def _reasons(funnel: Funnel) -> str:
    reasons = funnel.skipped | funnel.unscored
    return ", ".join(f"{name.replace('_', ' ')} {count(n)}" for name, n in reasons.items() if n)


def _flips(shown: VersionReport) -> str:
    flips = shown.flip_rate
    bounds = MISSING if flips.interval is None else interval((flips.interval.lower, flips.interval.upper))
    return f"flip rate {percent(flips.rate)} ({bounds}) of {count(flips.repeated)} repeated judgements"


def _length_bias(shown: VersionReport) -> str:
    bias = shown.length_bias
    if bias is None:
        return f"length bias {MISSING}"
    bounds = interval((bias.interval.lower, bias.interval.upper), signed=True)
    return f"length bias {number(bias.slope, signed=True)} per 1,000 characters ({bounds})"


def _breaker(shown: VersionReport) -> str:
    breaker = shown.version.breaker
    reason = f" ({breaker.reason})" if breaker.reason else ""
    return f"breaker {breaker.state.replace('_', ' ')}{reason}"


def _gate(shown: VersionReport) -> str:
    gate = shown.calibration
    agreement = f"agreement {percent(gate.agreement)}"
    return f"calibration gate: {gate.verdict}, {count(gate.n_labelled)} labels held out, {agreement}"


def _seconds(value: float | None) -> str:
    return MISSING if value is None else f"{value:.2f} s"


def _usd(value: float | None) -> str:
    return MISSING if value is None else f"{number(value)} USD"
