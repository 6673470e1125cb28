"""The server that a command asks: its options, calls with one answer, and what to print when a call fails."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from functools import wraps
from typing import Any, NamedTuple, NoReturn, ParamSpec, TypeVar

import rich_click as click

from app.cli.client import INPUT_AT_FAULT, REQUEST_TIMEOUT_S, ClientError, Refused, WaldClient, path_of
from app.cli.command_line import FAILED, MISUSED, report

P = ParamSpec("P")
T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])


class Server(NamedTuple):
    """A server and the API key to ask it with. A call that fails ends the command.

    The exit status is then 2 if the request was wrong, else 1; or `failure`, if it is given.
    """

    url: str
    key: str

    def get(self, *path: str, params: dict[str, str] | None = None, failure: int | None = None) -> bytes:
        """Return the JSON that answers `GET /path`, where `path` is given in parts."""
        return self.ask(lambda client: client.raw("GET", path_of(*path), params=params), failure=failure)

    def post(self, *path: str, body: Any = None, timeout_s: float = REQUEST_TIMEOUT_S) -> bytes:
        """Return the JSON that answers `POST /path`, where `path` is given in parts."""
        return self.ask(lambda client: client.raw("POST", path_of(*path), body, timeout_s=timeout_s))

    def delete(self, *path: str, params: dict[str, str]) -> bytes:
        """Return the JSON that answers `DELETE /path`, where `path` is given in parts."""
        return self.ask(lambda client: client.raw("DELETE", path_of(*path), params=params))

    def ask(
        self,
        call: Callable[[WaldClient], Awaitable[T]],
        *,
        connections: int = 16,
        failure: int | None = None,
    ) -> T:
        """Return the result of `call`."""

        async def run() -> T:
            async with WaldClient(self.url, self.key, connections=connections) as client:
                return await call(client)

        try:
            return asyncio.run(run())
        except ClientError as error:
            _fail(error, failure)


def server_options(scopes: str) -> Callable[[Command], Callable[..., Any]]:
    """Add `--url` and `--key`, for a key with these scopes, and call the command with a `server`."""
    url_option = click.option(
        "--url",
        default="http://127.0.0.1:8000",
        envvar="WALD_URL",
        show_default=True,
        show_envvar=True,
        help="URL of the server.",
    )
    key_option = click.option(
        "--key",
        required=True,
        envvar=["WALD_API_KEY", "WALD_KEY", "WALD_ADMIN_KEY"],
        show_envvar=True,
        help=f"An API key with {scopes}.",
    )

    def decorate(command: Command) -> Callable[..., Any]:
        @wraps(command)
        def with_server(*, url: str, key: str, **options: Any) -> Any:
            return command(server=Server(url, key), **options)

        return url_option(key_option(with_server))

    return decorate


reads_server = server_options("the scope read")
administers_server = server_options("the scope admin")
drives_server = server_options("the scopes assign, feedback, read and admin (it defines an experiment)")


def _fail(error: ClientError, failure: int | None) -> NoReturn:
    """Print the reason, and what to do about a refused key; end with an exit status as `Server` says."""
    status = error.status if isinstance(error, Refused) else None
    hint = "; give another key by --key or WALD_API_KEY" if status in {401, 403} else ""
    report(click.ClickException(f"{error}{hint}"))
    sys.exit((MISUSED if status in INPUT_AT_FAULT else FAILED) if failure is None else failure)
