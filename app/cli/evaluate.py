"""The command `wald evaluate`."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import rich_click as click

from app.cli.calls import ask
from app.cli.client import COMPUTATION_TIMEOUT_S, path_of
from app.cli.options import Moment, json_option
from app.cli.terminal import emit_json, out
from app.cli.traffic import NameOrJson, read_key_option, url_option


@click.command("evaluate")
@click.argument("experiment")
@url_option
@read_key_option
@click.option(
    "--policy",
    type=NameOrJson(),
    required=True,
    help="A name (fixed is an even split), or an object as in a definition, such as "
    '{"kind": "fixed", "weights": {"short": 1}}.',
)
@click.option(
    "--features",
    metavar="JSON|@FILE",
    help="What predicts rewards, as "
    '[{"type": "numeric", "name": "length"}]. [default: the features of the policy]',
)
@click.option("--since", type=Moment(), help="Only assignments from then on; UTC unless it has an offset.")
@click.option("--until", type=Moment(), help="Only assignments before.")
@click.option("--level", type=float, default=0.95, show_default=True, help="Of all intervals.")
@json_option
def evaluate_command(
    *,
    experiment: str,
    url: str,
    key: str,
    policy: str | dict[str, Any],
    features: str | None,
    since: datetime | None,
    until: datetime | None,
    level: float,
    as_json: bool,
) -> None:
    """Ask what another policy would have earned on the traffic of EXPERIMENT.

    Nothing is served anew. Every logged assignment has the probability with which its variant was drawn;
    weighting it by how much more, or less, likely the other policy would have drawn it makes the log speak
    for that policy:

        wald evaluate summary-prompt --policy '{"kind": "fixed", "weights": {"short": 1}}'
        wald evaluate summary-prompt --policy thompson
        wald evaluate summary-prompt --policy @lin_ts.json --since 2026-01-05

    A policy that learns is judged only on rows that it has not learned from: the log is split into five
    parts, and for each part it decides as it would after the other four. That is the policy at the end of its
    learning, not the way there.

    How to read it:

    * *doubly_robust* is the number to quote. It starts from predicted rewards and corrects them by the log;
      *ips* does without predictions, *self_normalised* divides by the sum of weights. Three readings far
      apart mean that the log says little.
    * The *interval for one look* is right when you look once, at a time you did not choose by the results.
      The one *at every look* is right however often you look, and wider.
    * *effective rows*: so many requests served by the other policy itself would tell as much. Below 100 be
      careful, below 30 there is no answer: the log hardly ever served what the policy would serve. A higher
      exploration floor makes logs that can answer more questions.
    * *largest weight*: how often a single row counts. If one row carries a tenth of all weight, an estimate
      stands and falls with it.
    * *shares*: what the policy would have served on average.

    It is about the traffic as it was: another policy does not change who comes, and the variants of the
    experiment are all there is to choose from.
    """
    request = {
        "policy": policy,
        "features": _features(features),
        "since": since,
        "until": until,
        "level": level,
    }
    path = path_of("experiments", experiment, "evaluate")
    answer = ask(url, key, lambda client: client.raw("POST", path, request, timeout_s=COMPUTATION_TIMEOUT_S))
    if as_json:
        emit_json(answer)
        return
    from app.cli.evaluate_display import evaluation_of, report  # noqa: PLC0415 - loads numerical libraries

    out().print(report(evaluation_of(answer)))


def _features(text: str | None) -> list[dict[str, Any]] | None:
    if text is None:
        return None
    try:
        source = Path(text[1:]).read_text(encoding="utf-8") if text.startswith("@") else text
        features: list[dict[str, Any]] = json.loads(source)
    except (OSError, ValueError) as error:
        raise click.UsageError(f"--features: {error}") from error
    return features
