"""What demo and replay show on a terminal. Pure: values in, rich renderables out."""

from collections.abc import Sequence
from typing import Final

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from app.clients.client import Status, VariantStatus
from app.clients.replay import ReplayResult
from app.clients.simulation import PROMPTS

BLOCKS: Final = "▁▂▃▄▅▆▇█"
SHARE_WIDTH: Final = 24
WINDOWS_MIN: Final = 9
WINDOWS_MAX: Final = 32
MISSING: Final = "n/a"


def sparkline(shares: Sequence[float]) -> str:
    """Shares as blocks from empty (0) to full (1)."""
    return "".join(BLOCKS[min(int(share * len(BLOCKS)), len(BLOCKS) - 1)] for share in shares)


def status_table(status: Status) -> Table:
    """Every variant now; what is not known is shown as missing."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant")
    table.add_column("share now", width=SHARE_WIDTH)
    for heading in ("", "mean reward", "95 % interval", "P(best)", "assigned", "pending"):
        table.add_column(heading, justify="right")
    leader = _leader(status.variants)
    for variant in status.variants:
        style = "green" if variant is leader else ""
        table.add_row(
            Text(variant.key + (" (control)" if variant.control else ""), style=style),
            ProgressBar(total=1.0, completed=variant.allocation or 0.0, width=SHARE_WIDTH),
            _percent(variant.allocation),
            _decimal(variant.mean),
            _interval(variant.interval),
            _decimal(variant.probability_best),
            f"{variant.assignments:,}",
            f"{variant.pending:,}",
        )
    return table


def demo_progress(status: Status, *, served: int, requests: int, waiting: int) -> Group:
    """The live view of a running demo."""
    head = f"[bold]{status.key}[/]  {served:,} of {requests:,} requests served, {waiting:,} reactions to come"
    learned = (
        f"policy version {status.policy_version}" if status.policy_version is not None else "no policy yet"
    )
    return Group(Text.from_markup(head), "", status_table(status), "", Text(learned, style="dim"))


def demo_summary(status: Status, *, served: dict[str, int], rewards: Sequence[float]) -> Group:
    """What was earned and learned, beside the truth that only the simulation knows."""
    best = max(prompt.mean_reward for prompt in PROMPTS)
    uniform = sum(prompt.mean_reward for prompt in PROMPTS) / len(PROMPTS)
    n_served = sum(served.values())
    regret = sum((best - prompt.mean_reward) * served[prompt.key] for prompt in PROMPTS)
    learned = Table(title="Learned, and the truth", title_justify="left", box=None, pad_edge=False)
    learned.add_column("variant")
    for heading in ("true mean", "learned", "95 % interval", "P(best)", "share", "served here"):
        learned.add_column(heading, justify="right")
    variants = {variant.key: variant for variant in status.variants}
    for prompt in sorted(PROMPTS, key=lambda prompt: -prompt.mean_reward):
        variant = variants[prompt.key]
        learned.add_row(
            prompt.key,
            _decimal(prompt.mean_reward),
            _decimal(variant.mean),
            _interval(variant.interval),
            _decimal(variant.probability_best),
            _percent(variant.allocation),
            f"{served[prompt.key]:,}",
        )
    earned = sum(rewards) / len(rewards) if rewards else None
    return Group(
        learned,
        "",
        f"mean reward {_decimal(earned)} (equal shares {uniform:.3f}, the best prompt alone {best:.3f})",
        f"regret {regret:,.1f} against the best prompt; equal shares: {(best - uniform) * n_served:,.1f}",
    )


def replay_report(result: ReplayResult, *, width: int) -> RenderableType:
    """Variants by true mean, the totals against uniform, and how the shares moved; `width` in characters."""
    headings = ("true mean", "assigned", "reward mean", "P(best)", "share")
    taken = max(map(len, result.log.variants)) + sum(2 + len(heading) for heading in headings) + 2
    windows = min(max(width - taken, WINDOWS_MIN), WINDOWS_MAX)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("over time" if windows < WINDOWS_MAX else "share over time", width=windows, no_wrap=True)
    variants = {variant.key: variant for variant in result.status.variants}
    assigned, shares = result.assigned(), result.shares(windows)
    for index in sorted(range(len(result.keys)), key=lambda index: -result.log.means[index]):
        variant = variants[result.keys[index]]
        table.add_row(
            result.log.variants[index],
            _decimal(result.log.means[index]),
            f"{assigned[index]:,}",
            _decimal(variant.mean),
            _decimal(variant.probability_best),
            _percent(variant.allocation),
            sparkline(shares[index]),
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


def _decimal(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3f}"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{share:.1%}"


def _interval(interval: tuple[float, float] | None) -> str:
    return MISSING if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"
