"""What demo and replay show on a terminal. Pure: values in, rich renderables out."""

from collections.abc import Sequence
from functools import partial
from typing import Final

from rich.console import Group, RenderableType
from rich.text import Text

from app.cli.amounts import count, decimal, decimal_interval, percent
from app.cli.client import Status, VariantStatus
from app.cli.replay import ReplayResult
from app.cli.simulation import PROMPTS
from app.cli.tables import Column, Picture, Table

BLOCKS: Final = "▁▂▃▄▅▆▇█"
SHARE_WIDTH: Final = 24
WINDOWS_MIN: Final = 9
WINDOWS_MAX: Final = 32


def sparkline(shares: Sequence[float]) -> str:
    """Shares as blocks from empty (0) to full (1)."""
    return "".join(BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)] for share in shares)


def resampled(values: Sequence[float], width: int) -> list[float]:
    """The values at `width` places, evenly from the first to the last."""
    steps = max(width - 1, 1)
    return [values[round(place * (len(values) - 1) / steps)] for place in range(width)]


def bar(share: float, width: int) -> str:
    """A share as a bar of at most `width` characters."""
    return "━" * round(share * width)


def status_table(status: Status) -> Table:
    """Every variant now; what is not known is shown as missing."""
    table = Table(
        Column("variant", "name"),
        Column("share now"),
        Column("P(best)"),
        Column("mean reward"),
        Column("95% interval"),
        Column("assigned"),
        Column("pending"),
        Column(""),
    )
    leader = _leader(status.variants)
    for variant in status.variants:
        name = variant.key + (" (control)" if variant.control else "")
        table.add(
            Text(name, style="green" if variant is leader else ""),
            percent(variant.allocation),
            percent(variant.probability_best),
            decimal(variant.mean),
            decimal_interval(variant.interval),
            count(variant.assignments),
            count(variant.pending),
            Picture(partial(bar, variant.allocation or 0.0), 8, SHARE_WIDTH),
        )
    return table


def demo_progress(status: Status, *, served: int, requests: int, waiting: int) -> Group:
    """The live view of a running demo."""
    head = Text(status.key, style="bold")
    head.append(
        f"  {served:,} of {requests:,} requests served, {waiting:,} reactions to come", style="not bold"
    )
    learned = (
        f"policy version {status.policy_version}" if status.policy_version is not None else "no policy yet"
    )
    return Group(head, "", status_table(status), "", Text(learned, style="dim"))


def demo_summary(status: Status, *, served: dict[str, int], rewards: Sequence[float]) -> Group:
    """What was earned and learned, beside the truth that only the simulation knows."""
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
        Text("Learned, and the truth", style="bold"),
        learned,
        "",
        f"mean reward {decimal(earned)} (equal shares {uniform:.3f}, the best prompt alone {best:.3f})",
        f"regret {regret:,.1f} against the best prompt; equal shares: {(best - uniform) * n_served:,.1f}",
    )


def replay_report(result: ReplayResult) -> RenderableType:
    """Variants by true mean, the totals against uniform, and how the shares moved."""
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
            Picture(partial(_shares_over_time, result, index), WINDOWS_MIN, WINDOWS_MAX),
        )
    n_served = len(result.draws)
    gain = result.reward / result.uniform - 1 if result.uniform else 0.0
    return Group(
        table,
        "",
        f"{n_served:,} tasks served in {result.elapsed_s:.1f} s ({n_served / result.elapsed_s:,.0f}/s)",
        f"total reward {result.reward:,.1f}; uniform {result.uniform:,.1f} ({gain:+.1%}); "
        f"best variant alone {result.best:,.1f}",
        f"regret {result.best - result.reward:,.1f}; uniform {result.best - result.uniform:,.1f}",
        f"errors {result.errors}, unrecorded assignments {result.unrecorded}, "
        f"repeated requests {result.retries}",
    )


def _leader(variants: Sequence[VariantStatus]) -> VariantStatus | None:
    known = [variant for variant in variants if variant.probability_best is not None]
    return max(known, key=lambda variant: variant.probability_best or 0.0, default=None)


def _shares_over_time(result: ReplayResult, index: int, width: int) -> str:
    return sparkline(result.shares(width)[index])


def replay_record(result: ReplayResult, experiment: str) -> dict[str, object]:
    """The same for programs. Rewards are in [0, 1]."""
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
