"""Configuration: `WALD_*` environment variables, overridden by command-line flags."""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Self

import msgspec

from app.core.choices import explained
from app.core.errors import InvalidInput


class Durability(StrEnum):
    """What an acknowledged exposure survives."""

    ACCEPTED = "accepted"  # in the memory of the server that answered
    DURABLE = "durable"  # written and synced by Valkey before the answer


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. An unset URL means the embedded engine in `data_dir`."""

    data_dir: Path = Path(".wald")
    valkey_url: str | None = None
    database_url: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8000
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    stream_shards: Annotated[int, msgspec.Meta(ge=1, le=256)] = 2
    durability: Durability = Durability.DURABLE
    admin_key: (
        Annotated[str, msgspec.Meta(min_length=8, max_length=200, pattern=r"^[!-~]+$(?!\n)")] | None
    ) = None
    log_level: str = "info"
    webhook_allowed_networks: tuple[str, ...] = ()
    webhook_allowed_ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65_535)], ...] = (443,)

    def __post_init__(self) -> None:
        for network in self.webhook_allowed_networks:
            ip_network(network)  # raises ValueError, which names it

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ, **flags: Any) -> Self:
        """Read `WALD_*` from `environment`; a flag that is not None wins.

        Raises InvalidInput naming the variable and the bound it broke.
        """
        values: dict[str, Any] = {}
        for name in cls.__struct_fields__:
            variable = f"WALD_{name.upper()}"
            if environment.get(variable):
                given = environment[variable]
                values[name] = re.split(r"[\s,]+", given.strip(" ,")) if name in _LISTS else given
        values.update({name: value for name, value in flags.items() if value is not None})
        try:
            return msgspec.convert(values, cls, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            reason, _, path = str(error).partition(" - at `$.")
            name = path.rstrip("`")
            where = f" - at `$.{name}`" if name else ""
            raise InvalidInput(f"configuration: {explained(reason, cls, name)}{where}") from error

    def environment(self) -> dict[str, str]:
        """The variables from which `load` reads the same again."""
        values = msgspec.structs.asdict(self)
        for name in _LISTS:
            values[name] = ",".join(map(str, values[name]))
        return {f"WALD_{name.upper()}": str(value) for name, value in values.items() if value is not None}


_LISTS: Final = frozenset({"webhook_allowed_networks", "webhook_allowed_ports"})
"""Settings whose variable holds several values, parted by commas."""


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
