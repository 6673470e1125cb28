"""The results of `wald demo` and `wald replay` on a terminal."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.client import Status
from app.cli.display.amounts import count, decimal, decimal_interval, percent
from app.cli.display.pictures import bar, sparkline
from app.cli.display.tables import Column, Picture, Table, visible
from app.cli.display.variants import variants_table
from app.cli.traffic.product import PROMPTS
from app.cli.traffic.replay import ReplayResult

_SHARE_LEAST: Final = 8
_SHARE_MOST: Final = 24
_WINDOWS_LEAST: Final = 9
_WINDOWS_MOST: Final = 32


def demo_progress(status: Status, *, served: int, requests: int, waiting: int) -> Group:
    """Return the live view of a running demo."""
    bars = [
        Picture(partial(bar, variant.allocation or 0.0), _SHARE_LEAST, _SHARE_MOST)
        for variant in status.variants
    ]
    head = Text(status.key, style="bold")
    head.append(
        f"  {served:,} of {requests:,} requests served, {waiting:,} reactions pending", style="not bold"
    )
    learned = (
        f"policy version {status.policy_version}" if status.policy_version is not None else "no policy yet"
    )
    return Group(head, "", variants_table(status.variants, "", bars), "", Text(learned, style="dim"))


def demo_summary(status: Status, *, served: dict[str, int], rewards: Sequence[float]) -> Group:
    """Return what was earned and learned, beside the true means, which only the simulation knows."""
    best = max(prompt.mean_reward for prompt in PROMPTS)
    uniform = sum(prompt.mean_reward for prompt in PROMPTS) / len(PROMPTS)
    n_served = sum(served.values())
    regret = sum((best - prompt.mean_reward) * served[prompt.key] for prompt in PROMPTS)
    learned = Table(
        Column("variant", "name"),
        *map(Column, ("true mean", "learned", "95% interval", "P(best)", "share", "served here")),
    )
    variants = {variant.key: variant for variant in status.variants}
    for prompt in sorted(PROMPTS, key=lambda prompt: -prompt.mean_reward):
        variant = variants[prompt.key]
        learned.add(
            prompt.key,
            decimal(prompt.mean_reward),
            decimal(variant.mean),
            decimal_interval(variant.interval),
            percent(variant.probability_best),
            percent(variant.allocation),
            count(served[prompt.key]),
        )
    earned = sum(rewards) / len(rewards) if rewards else None
    return Group(
        Text("True and learned mean rewards", style="bold"),
        learned,
        "",
        f"mean reward {decimal(earned)} (equal shares earn {uniform:.3f}, the best prompt {best:.3f})",
        f"regret {regret:,.1f} against the best prompt (of equal shares {(best - uniform) * n_served:,.1f})",
        *(("", Text(visible(status.conclusion), style="bold")) if status.conclusion else ()),
    )


def replay_report(result: ReplayResult) -> RenderableType:
    """Return the variants by true mean, the totals against equal shares, and the shares over time."""
    table = Table(
        Column("variant", "name"),
        *map(Column, ("true mean", "assigned", "reward mean", "P(best)", "share", "share over time")),
    )
    variants = {variant.key: variant for variant in result.status.variants}
    assigned = result.assigned()
    for index in sorted(range(len(result.keys)), key=lambda index: -result.log.means[index]):
        variant = variants[result.keys[index]]
        table.add(
            result.log.variants[index],
            decimal(result.log.means[index]),
            count(assigned[index]),
            decimal(variant.mean),
            percent(variant.probability_best),
            percent(variant.allocation),
            Picture(partial(_shares_over_time, result, index), _WINDOWS_LEAST, _WINDOWS_MOST),
        )
    n_served = len(result.draws)
    gain = result.reward / result.uniform - 1 if result.uniform else 0.0
    return Group(
        table,
        "",
        f"{n_served:,} tasks served in {result.elapsed_s:.1f} s ({n_served / result.elapsed_s:,.0f}/s)",
        f"total reward {result.reward:,.1f}; equal shares earn {result.uniform:,.1f} ({gain:+.1%}), the best "
        f"variant {result.best:,.1f}",
        f"regret {result.best - result.reward:,.1f}; of equal shares {result.best - result.uniform:,.1f}",
        f"errors {result.errors}, unrecorded assignments {result.unrecorded}, "
        f"repeated requests {result.retries}",
    )


def _shares_over_time(result: ReplayResult, index: int, width: int) -> str:
    return sparkline(result.shares(width)[index])


def replay_record(result: ReplayResult, experiment: str) -> dict[str, object]:
    """Return the result of a replay as JSON for programs. Rewards are in [0, 1]."""
    return {
        "experiment": experiment,
        "tasks": len(result.draws),
        "elapsed_s": result.elapsed_s,
        "reward": result.reward,
        "uniform_reward": result.uniform,
        "best_reward": result.best,
        "errors": result.errors,
        "unrecorded": result.unrecorded,
        "retries": result.retries,
        "assigned": dict(zip(result.log.variants, result.assigned(), strict=True)),
        "true_means": dict(zip(result.log.variants, result.log.means, strict=True)),
        "status": result.status,
    }
