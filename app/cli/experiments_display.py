"""A list of experiments on a terminal. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from app.cli.tables import Column, Table


def listed(experiments: Sequence[Mapping[str, Any]]) -> Table:
    """Experiments as `GET /experiments` answers them."""
    table = Table(
        Column("experiment", "name"),
        Column("state", "text"),
        Column("policy", "text"),
        Column("variants"),
        Column("epoch"),
        Column("started"),
        Column("description", "text"),
    )
    for one in experiments:
        table.add(
            one["key"],
            one["state"] + (", killed" if one.get("killed") else ""),
            one["policy"]["kind"],
            str(len(one["variants"])),
            str(one["epoch"]),
            _minute(one.get("started_at")),
            one.get("description", ""),
        )
    return table


def _minute(time: str | None) -> str:
    return "" if time is None else time[:16].replace("T", " ")
