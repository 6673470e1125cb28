"""Run a command on the engines themselves: those named by URL, or those of the data folder."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import rich_click as click

from app.core.errors import Conflict, WaldError
from app.core.settings import Settings

if TYPE_CHECKING:  # the help does without the clients of the engines
    from redis.asyncio import Redis
    from sqlalchemy.ext.asyncio import AsyncEngine


class Stores(NamedTuple):
    """Both engines, ready for use: the database has the schema of this version."""

    settings: Settings
    engine: "AsyncEngine"
    valkey: "Redis"


def settings_of(flags: dict[str, Any]) -> Settings:
    """Return the settings of the environment, replaced by flags. Raises click.UsageError."""
    try:
        return Settings.load(**flags)
    except WaldError as error:
        raise click.UsageError(error.detail) from error


def run_with_urls(flags: dict[str, Any], use: Callable[[Settings], Coroutine[Any, Any, None]]) -> None:
    """Run `use` with settings that name both engines by URL; start embedded engines where none is named."""
    import uvloop

    settings = settings_of(flags)

    async def run() -> None:
        async with AsyncExitStack() as stack:
            await use(await _with_urls(settings, stack))

    with errors_in_words():
        uvloop.run(run())


def run_on_stores(flags: dict[str, Any], use: Callable[[Stores], Coroutine[Any, Any, None]]) -> None:
    """Run `use` with clients of both engines and the shared time.

    Raises ClickException that names `wald migrate` if the database lacks the schema of this version.
    """
    from app.core import process
    from app.core.postgres import create_engine
    from app.core.timekeeping import TimeKeeper
    from app.core.valkey import create_client
    from app.start import schema_lacks

    async def run(settings: Settings) -> None:
        assert settings.database_url is not None
        assert settings.valkey_url is not None
        engine, valkey = create_engine(settings.database_url), create_client(settings.valkey_url)
        try:
            if (lacking := await schema_lacks(engine)) is not None:
                raise Conflict(lacking)
            await TimeKeeper(settings.database_url, process.NAME).start()
            await use(Stores(settings, engine, valkey))
        finally:
            await valkey.aclose()
            await engine.dispose()

    run_with_urls(flags, run)


@contextmanager
def errors_in_words() -> Iterator[None]:
    """Raise expected errors again as ClickException. Other errors are bugs and keep their traceback."""
    try:
        yield
    except WaldError as error:
        raise click.ClickException(error.detail) from error
    except Exception as error:
        from app.core.logs import brief
        from app.core.outages import ENGINE_ERRORS

        if not isinstance(error, ENGINE_ERRORS):
            raise
        raise click.ClickException(f"an engine cannot be used: {brief(error)}") from error


async def _with_urls(settings: Settings, stack: AsyncExitStack) -> Settings:
    """Return the settings with both URLs. Engines without a URL run embedded until `stack` closes."""
    if settings.valkey_url and settings.database_url:
        return settings
    from app.core.engines import EmbeddedEngines

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
