"""Configuration: `WALD_*` environment variables, overridden by command-line flags."""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Final, Self
from urllib.parse import urlsplit

import msgspec

from app.core.choices import explained
from app.core.errors import InvalidInput

STREAM_SHARDS_MAX: Final = 256
ADMIN_KEY_LENGTH_MIN: Final = 16
ADMIN_KEY_LENGTH_MAX: Final = 200
_PRINTABLE: Final = re.compile(r"[!-~]+")


class Durability(StrEnum):
    """Guarantee for an acknowledged exposure."""

    ACCEPTED = "accepted"  # it is in the memory of the server that answered
    DURABLE = "durable"  # Valkey wrote and synced it before the answer


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings. An unset URL selects the embedded engine in `data_dir`."""

    data_dir: Path = Path(".wald")
    valkey_url: str | None = None
    database_url: str | None = None
    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8000
    workers: Annotated[int, msgspec.Meta(ge=1, le=256)] = 1
    stream_shards: Annotated[int, msgspec.Meta(ge=1, le=STREAM_SHARDS_MAX)] = 2
    durability: Durability = Durability.DURABLE
    admin_key: str | None = None
    log_level: str = "info"
    snapshot_dir: Path | None = None  # for servers; unset: the folder `snapshot` in `data_dir`
    webhook_allowed_networks: tuple[str, ...] = ()
    webhook_allowed_ports: tuple[Annotated[int, msgspec.Meta(ge=1, le=65_535)], ...] = (443,)
    trusted_proxies: tuple[str, ...] = ()
    operations_host: str = "127.0.0.1"
    operations_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    access_log: bool = False

    def __post_init__(self) -> None:
        if self.admin_key is not None and (wrong := _wrong_with_admin_key(self.admin_key)):
            raise ValueError(wrong)
        for network in (*self.webhook_allowed_networks, *self.trusted_proxies):
            ip_network(network)  # raises ValueError, which names it
        _check_url("WALD_VALKEY_URL", self.valkey_url, _VALKEY_SCHEMES)
        _check_url("WALD_DATABASE_URL", self.database_url, _DATABASE_SCHEMES)
        if self.log_level.lower() not in LOG_LEVELS:
            raise ValueError(f"WALD_LOG_LEVEL must be one of {', '.join(LOG_LEVELS)}; got {self.log_level!r}")

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ, **flags: Any) -> Self:
        """Read `WALD_*` from `environment`; a flag that is not None wins.

        Raises InvalidInput naming the variable and its bound.
        """
        values: dict[str, Any] = {}
        for name in cls.__struct_fields__:
            variable = f"WALD_{name.upper()}"
            if environment.get(variable):
                value = environment[variable]
                values[name] = re.split(r"[\s,]+", value.strip(" ,")) if name in _LISTS else value
        values.update({name: value for name, value in flags.items() if value is not None})
        try:
            return msgspec.convert(values, cls, strict=False, dec_hook=_decode)
        except msgspec.ValidationError as error:
            reason, _, path = str(error).partition(" - at `$.")
            name = path.rstrip("`")
            where = f" - at `$.{name}`" if name else ""
            raise InvalidInput(f"configuration: {explained(reason, cls, name)}{where}") from error

    def environment(self) -> dict[str, str]:
        """Return the variables from which `load` reads equal settings."""
        values = msgspec.structs.asdict(self)
        for name in _LISTS:
            values[name] = ",".join(map(str, values[name]))
        return {f"WALD_{name.upper()}": str(value) for name, value in values.items() if value is not None}


def _wrong_with_admin_key(key: str) -> str | None:
    """Return the bound that a preset admin key breaks, without the key; None if it is valid."""
    length = len(key)
    if ADMIN_KEY_LENGTH_MIN <= length <= ADMIN_KEY_LENGTH_MAX and _PRINTABLE.fullmatch(key):
        return None
    problem = f"{length} characters" if _PRINTABLE.fullmatch(key) else "a space or another character"
    return (
        f"WALD_ADMIN_KEY must be {ADMIN_KEY_LENGTH_MIN} to {ADMIN_KEY_LENGTH_MAX} printable ASCII characters "
        f"without spaces; got {problem}. Make a good one: "
        "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"
    )


_LISTS: Final = frozenset({"webhook_allowed_networks", "webhook_allowed_ports", "trusted_proxies"})
"""Settings whose variable has several values, separated by commas."""


LOG_LEVELS: Final = ("debug", "info", "warning", "error")
_VALKEY_SCHEMES: Final = ("redis", "rediss", "unix")
_DATABASE_SCHEMES: Final = ("postgresql", "postgres", "postgresql+psycopg")


def _check_url(variable: str, url: str | None, schemes: tuple[str, ...]) -> None:
    """Raise ValueError that names the variable but not the URL, which may contain a password."""
    if url is None:
        return
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises ValueError for an invalid port
    except ValueError:
        raise ValueError(f"{variable} is not a URL: its host or port cannot be read") from None
    if parts.scheme not in schemes:
        starts = ", ".join(f"{name}://" for name in schemes)
        raise ValueError(f"{variable} must start with one of {starts}; got {parts.scheme or 'no scheme'}")


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
