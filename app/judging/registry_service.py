"""Use cases of judge versions: register, list, and show."""

import re
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from app.core.choices import explained
from app.core.clock import Clock
from app.core.errors import InvalidInput
from app.core.text import check_storable
from app.judging import limits
from app.judging.judges.model import JudgeVersion, LocalVersion, RuleVersion
from app.judging.judges.service import usable
from app.judging.model import StoredVersion
from app.judging.registry_store import RegistryStore, ServesArm

_CREDENTIAL: Final = re.compile(r"WALD_JUDGE_[A-Z0-9_]+|[A-Z][A-Z0-9_]*_API_(?:KEY|TOKEN)")
"""Names of environment variables that a definition may give as its credential.

A definition chooses where its credential is sent, so it must not reach other secrets of the worker.
"""


class _Extra(msgspec.Struct, frozen=True):
    serves_arm: ServesArm = "refused"


class RegistryService:
    """Registers judge versions. A definition that was registered before is the same version."""

    def __init__(self, store: RegistryStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def register(self, body: bytes) -> tuple[StoredVersion, bool]:
        """Register the version that a JSON body defines; return it, and whether it is new.

        Raises InvalidInput naming the field; Conflict if there are too many.
        """
        version, serves_arm = decode_definition(body)
        return await self._store.register(version, serves_arm, self._clock.now())

    async def judges(self) -> list[list[StoredVersion]]:
        """Return the versions of each judge, by name, the newest first."""
        by_name: dict[str, list[StoredVersion]] = {}
        for version in await self._store.all():
            by_name.setdefault(version.name, []).append(version)
        return list(by_name.values())

    async def versions(self, name: str) -> Sequence[StoredVersion]:
        """Return the versions of a judge, the newest first. Raises NotFound."""
        return await self._store.versions(name)


def decode_definition(body: bytes) -> tuple[JudgeVersion, ServesArm]:
    """Return the version of a JSON body, and its `serves_arm`. Raises InvalidInput."""
    try:
        fields: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        extra = msgspec.convert(
            {name: fields.pop(name) for name in ("serves_arm",) if name in fields}, _Extra
        )
    except msgspec.ValidationError as error:
        raise _invalid(error, _Extra) from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInput(f"is not a JSON object: {error}", field="body") from error
    check_storable(fields, "body")
    try:
        version: JudgeVersion = msgspec.convert(fields, JudgeVersion)
    except msgspec.ValidationError as error:
        raise _invalid(error, JudgeVersion) from error
    _check_credential(version)
    return usable(version), extra.serves_arm


def _check_credential(version: JudgeVersion) -> None:
    if isinstance(version, RuleVersion | LocalVersion):
        return
    credential = version.operation.credential
    if credential is None:
        return
    if len(credential) > limits.CREDENTIAL_LENGTH_MAX or not _CREDENTIAL.fullmatch(credential):
        raise InvalidInput(
            "must name an environment variable of the workers: WALD_JUDGE_… or …_API_KEY; "
            f"got {credential!r}",
            field="operation.credential",
        )


def _invalid(error: msgspec.ValidationError, kind: Any) -> InvalidInput:
    message, _, path = str(error).partition(" - at `$")
    field = path.rstrip("`").lstrip(".")
    if (missing := re.search(r"field `(\w+)`", message)) and "." not in field:
        field = f"{field}.{missing[1]}".strip(".")
    reason = explained(message, kind, field)
    return InvalidInput(reason, field=field or "body")
