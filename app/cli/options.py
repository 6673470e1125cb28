"""What commands have in common: where the engines are, times, and errors in words."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import msgspec
import rich_click as click

from app.core.errors import WaldError
from app.core.logs import brief
from app.core.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")


def engine_options(command: Callable[P, T]) -> Callable[P, T]:
    """The options that say where the engines are."""
    options = (
        click.option(
            "--data-dir",
            type=click.Path(path_type=Path, file_okay=False),
            help="Folder of the embedded engines.  [env: WALD_DATA_DIR; default: .wald]",
        ),
        click.option(
            "--valkey-url",
            help="A Valkey or Redis 7+ of your own instead of the embedded one.  [env: WALD_VALKEY_URL]",
        ),
        click.option(
            "--database-url",
            help="A PostgreSQL 15+ of your own instead of the embedded one.  [env: WALD_DATABASE_URL]",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
"""The flag that every command has whose result a program may want to read."""


class Moment(click.ParamType[datetime]):
    """A day or a time in ISO 8601, UTC unless it has an offset."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read `2026-01-31`, `2026-01-31T08:00` or `2026-01-31T08:00+02:00`."""
        if isinstance(value, datetime):
            return value
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            at = None
        if at is None or value[10:11] not in {"", "T", " "}:
            self.fail(f"must be as 2026-01-31 or 2026-01-31T08:00+02:00, got {value!r}", param, ctx)
        return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def settings_of(flags: dict[str, Any]) -> Settings:
    """The environment's, and flags, which win. Raises click.UsageError."""
    try:
        return Settings.load(**flags)
    except WaldError as error:
        raise click.UsageError(error.detail) from error


def run_with_engines(flags: dict[str, Any], use: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Run `use` with both URLs known: as given, or of the engines of the data folder."""
    import uvloop  # noqa: PLC0415 - what `--help` does not need is loaded late

    settings = settings_of(flags)

    async def run() -> None:
        async with AsyncExitStack() as stack:
            await use(await connected(settings, stack))

    with errors_told():
        uvloop.run(run())


@contextmanager
def errors_told() -> Iterator[None]:
    """What can go wrong in words, and exit status 1; anything else is a bug and keeps its traceback."""
    try:
        yield
    except WaldError as error:
        raise click.ClickException(error.detail) from error
    except Exception as error:
        from app.core.outages import ENGINE_ERRORS  # noqa: PLC0415  (loads the drivers of both engines)

        if not isinstance(error, ENGINE_ERRORS):
            raise
        raise click.ClickException(f"an engine cannot be used: {brief(error)}") from error


async def connected(settings: Settings, stack: AsyncExitStack) -> Settings:
    """The settings with both URLs; engines that none names run embedded until `stack` closes."""
    if settings.valkey_url and settings.database_url:
        return settings
    from app.core.engines import EmbeddedEngines  # noqa: PLC0415 - loads clients of both engines

    engines = await stack.enter_async_context(
        EmbeddedEngines(
            settings.data_dir, valkey=settings.valkey_url is None, postgres=settings.database_url is None
        )
    )
    return msgspec.structs.replace(
        settings,
        valkey_url=settings.valkey_url or engines.valkey_url,
        database_url=settings.database_url or engines.database_url,
    )
