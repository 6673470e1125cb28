"""The command `wald evaluate`, over HTTP."""

from datetime import datetime
from typing import Any

import rich_click as click

from app.cli import display
from app.cli.calls import Server, reads_server
from app.cli.client import COMPUTATION_TIMEOUT_S
from app.cli.options import JSON, NAME_OR_JSON, json_option, since_option, until_option
from app.cli.terminal import show


@click.command("evaluate")
@click.argument("experiment")
@reads_server
@click.option(
    "--policy",
    type=NAME_OR_JSON,
    required=True,
    help="The kind of a policy (fixed is an even split), or an object as in a definition, such as "
    '{"kind": "fixed", "weights": {"short": 1}}.',
)
@click.option(
    "--features",
    type=JSON,
    help='The features that predict rewards, as in [{"type": "numeric", "name": "length"}].  '
    "[default: the features of the policy]",
)
@since_option
@until_option
@click.option("--level", type=float, default=0.95, show_default=True, help="Level of all intervals.")
@json_option
def evaluate_command(
    *,
    experiment: str,
    server: Server,
    policy: str | dict[str, Any],
    features: list[dict[str, Any]] | None,
    since: datetime | None,
    until: datetime | None,
    level: float,
    as_json: bool,
) -> None:
    """Estimate what another policy would have earned on the traffic of EXPERIMENT.

    Nothing is served again. Every logged assignment has the probability with which its variant was drawn.
    Wald weights each assignment by how much more, or less, likely the other policy would have drawn it:

        wald evaluate summary-prompt --policy '{"kind": "fixed", "weights": {"short": 1}}'
        wald evaluate summary-prompt --policy thompson
        wald evaluate summary-prompt --policy @lin_ts.json --since 2026-01-05

    A policy that learns is judged only on rows that it has not learned from. Wald splits the log into five
    parts, and for each part the policy learns from the other four. This estimates the policy after learning,
    not while it learns.

    How to read it:

    * *doubly_robust* is the number to quote. It starts from predicted rewards and corrects them by the log.
      *ips* does without predictions. The *self_normalised* ones divide by the sum of weights, so that a few
      large weights matter less. If the four differ a lot, the log says little.
    * *interval for one look* is valid if you look once, at a time that does not depend on the results. The
      *interval at every look* is valid however often you look, and wider.
    * *effective rows*: this many requests served by the other policy would be as informative. Below 100 be
      careful. Below 30 there is no answer: the log rarely served what the policy would serve. A higher
      exploration floor makes logs that can answer more questions.
    * *largest weight*: how often one row counts. An estimate is unreliable if one row has a tenth of all
      weight.
    * *shares*: what the policy would have served on average.

    The estimate is about the traffic as it was: another policy does not change who comes, and can only choose
    among the variants of the experiment.
    """
    question = {
        "policy": policy,
        "features": features,
        "since": since,
        "until": until,
        "level": level,
    }
    answer = server.post(
        "experiments", experiment, "evaluate", body=question, timeout_s=COMPUTATION_TIMEOUT_S
    )
    show(answer, lambda: display.evaluate.report(answer), as_json=as_json)
