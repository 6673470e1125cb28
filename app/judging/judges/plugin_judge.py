"""Judges of the kind `plugin`: a Python function or an HTTP endpoint of yours."""

import asyncio
import inspect
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from importlib.metadata import entry_points
from typing import Any, Final

import msgspec

from app.core.choices import suggestion
from app.core.errors import InvalidInput
from app.judging.judges import limits, plugin_answers
from app.judging.judges.endpoint_client import NoAnswer
from app.judging.judges.failures import Failure, failure, shown
from app.judging.judges.model import Judged, JudgedText, Judgement, PluginVersion, Reason, Unscored
from app.judging.judges.retry_client import Called, RetryingClient, Usage, not_answered

GROUP: Final = "wald.judges"
"""Group of the entry points that a package declares its functions in."""

Function = Callable[[JudgedText], Any]


def installed_function(name: str) -> Function:
    """Return the function of an entry point. Raises InvalidInput naming the installed ones."""
    available = {point.name: point for point in entry_points(group=GROUP)}
    if name not in available:
        names = ", ".join(sorted(available)) or "none"
        hint = suggestion(name, available)
        raise InvalidInput(
            f"no entry point of the group {GROUP} is called {name}; installed: {names}{hint}",
            field="function",
        )
    try:
        function = available[name].load()
    except Exception as error:  # the code of others, which may raise anything
        raise InvalidInput(
            f"{name} cannot be loaded: {type(error).__name__}: {error}", field="function"
        ) from error
    if not callable(function):
        raise InvalidInput(f"{name} is not a function", field="function")
    checked: Function = function
    return checked


class FunctionJudge:
    """A judge that calls a function, which may be async, outside of the worker's event loop.

    A call that takes longer than `timeout_s` is unscored. Its thread cannot be stopped and keeps
    its place, so a function that hangs uses at most `PLUGIN_THREADS` threads.
    """

    def __init__(self, version: PluginVersion, function: Function) -> None:
        self.version = version
        self._function = function
        self._timeout_s = version.operation.timeout_s
        concurrency = version.operation.concurrency
        self._loop: asyncio.AbstractEventLoop | None = None
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object whose call is async
        ):
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, name="wald-plugin", daemon=True).start()
        else:
            concurrency = min(concurrency, limits.PLUGIN_THREADS)
        self._places = asyncio.Semaphore(concurrency)

    async def score(self, item: JudgedText) -> Judgement:
        """Return what the function says about a response."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._places.acquire()
                value = await asyncio.wrap_future(self._started(item))
        except TimeoutError:
            return Unscored(reason=Reason.TIMEOUT, detail=f"no answer within {self._timeout_s:g} s")
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            return Unscored(reason=Reason.PLUGIN_FAILED, detail="the function cancelled itself")
        except Exception as error:  # noqa: BLE001 - the code of others, which may raise anything
            detail = shown(f"{type(error).__name__}: {error}")
            return Unscored(reason=Reason.PLUGIN_FAILED, detail=detail)
        outcome = plugin_answers.returned(value, self.version.labels)
        if isinstance(outcome, Failure):
            return Unscored(reason=outcome.reason, detail=outcome.detail)
        return outcome

    async def score_many(self, items: Sequence[JudgedText]) -> list[Judgement]:
        """Return what the function says about each response, in order."""
        return list(await asyncio.gather(*(self.score(item) for item in items)))

    async def aclose(self) -> None:
        """Stop the event loop of an async function."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _started(self, item: JudgedText) -> "Future[Any]":
        """Start a call and return its future result. Its place is free once it has really ended."""
        here = asyncio.get_running_loop()
        if self._loop is not None:
            call: Coroutine[Any, Any, Any] = self._function(item)
            future = asyncio.run_coroutine_threadsafe(call, self._loop)
        else:
            future = Future()
            threading.Thread(
                target=_run, args=(future, self._function, item), name="wald-plugin", daemon=True
            ).start()
        future.add_done_callback(lambda _: _release(here, self._places))
        return future


def _run(future: "Future[Any]", function: Function, item: JudgedText) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function(item))
    except BaseException as error:  # noqa: BLE001 - SystemExit of a plugin must not end the worker
        future.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))


def _release(loop: asyncio.AbstractEventLoop, places: asyncio.Semaphore) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(places.release)


class EndpointJudge:
    """A judge that posts each response to an HTTP endpoint."""

    def __init__(self, version: PluginVersion, calls: RetryingClient) -> None:
        assert version.url is not None
        self.version = version
        self._url = version.url
        self._calls = calls

    async def score(self, item: JudgedText) -> Judgement:
        """Return what the endpoint says about a response."""
        body = plugin_answers.request_body(item)
        outcome, attempts = await self._calls.measure(lambda: self._call(body), Judged)
        if isinstance(outcome, Unscored):
            return outcome
        return msgspec.structs.replace(outcome, attempts=attempts)

    async def score_many(self, items: Sequence[JudgedText]) -> list[Judgement]:
        """Return what the endpoint says about each response, in order."""
        return list(await asyncio.gather(*(self.score(item) for item in items)))

    async def aclose(self) -> None:
        """Do nothing: the connections belong to the `EndpointClient`."""

    async def _call(self, body: bytes) -> Called:
        usage = Usage(None, None, len(body), 0)
        try:
            answer = await self._calls.post(self._url, body)
        except NoAnswer as error:
            return not_answered(error, usage)
        if answer.status // 100 != 2:
            failed = failure(answer.status, answer.headers, answer.body, now=self._calls.clock.now())
            return Called(answer.status, usage, failed, billed=False)
        return Called(answer.status, usage, plugin_answers.decoded(answer.body, self.version.labels))
