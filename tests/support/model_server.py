"""A local server of models that misbehaves on purpose: `/v1/chat/completions` and `/v1/systemone`.

    python -m tests.support.model_server PORT [LATENCY_S]

It answers like a model behind an OpenAI-compatible API: to a judge's question with a label, to
anything else with a text. `behave` lists what it does with the next requests instead.
"""

import asyncio
import gzip
import json
import re
import socket
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

TOOL = "give_verdict"
_OFFERED = re.compile(r"is one of ((?:\"\w+\"(?:, )?)+)")
_LINE = re.compile(r"^VERDICT (?P<mark>\w+): LABEL$", re.MULTILINE)


class Request(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        """The text of the last message of a chat."""
        return self.json["messages"][-1]["content"]


Behaviour = Callable[["ModelServer", Request, asyncio.StreamWriter], Awaitable[None]]


class ModelServer:
    """Counts requests, answers them, and does first what `behave` says.

    `supports` are the modes of structured output that it accepts; it refuses the parameters in
    `refuses`. If `ignores_modes`, it accepts all modes and answers in prose. `label` and
    `probability` choose the verdict from the whole message or state.
    """

    def __init__(self, *, latency_s: float = 0.0) -> None:
        self.port = 0
        self.latency_s = latency_s
        self.requests: list[Request] = []
        self.arrived = asyncio.Event()
        self.behaviours: list[Behaviour] = []
        self.always: Behaviour | None = None
        self.supports = {"json_schema", "tools", "json_object"}
        self.refuses: set[str] = set()
        self.ignores_modes = False
        self.label: Callable[[str, list[str]], str] = lambda _, offered: offered[-1]
        self.probability: Callable[[Any], float] = lambda _: 0.75
        self.says = "The capital of France is Paris."
        self.in_flight = 0
        self.most_in_flight = 0
        self.keep_requests = True
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def behave(self, *behaviours: Behaviour) -> None:
        """Say what to do with the next requests, one each."""
        self.behaviours += behaviours

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            while request := await _read(reader):
                if self.keep_requests:
                    self.requests.append(request)
                    self.arrived.set()
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    if self.latency_s:
                        await asyncio.sleep(self.latency_s)
                    behaviour = self.behaviours.pop(0) if self.behaviours else self.always or sensible
                    await behaviour(self, request, writer)
                finally:
                    self.in_flight -= 1
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone: some tests are about that
        finally:
            writer.close()

    async def stop(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def model_server(port: int = 0, **options: Any) -> AsyncIterator[ModelServer]:
    """Run a server on a free port."""
    running = ModelServer(**options)
    server = await asyncio.start_server(running.serve, "127.0.0.1", port)
    running.port = server.sockets[0].getsockname()[1]
    try:
        yield running
    finally:
        server.close()
        await running.stop()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    line, *lines = head.decode().strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (text.partition(": ") for text in lines)}
    return Request(
        line.split(" ")[1], headers, await reader.readexactly(int(headers.get("content-length", "0")))
    )


# What a good server does


async def sensible(server: ModelServer, request: Request, writer: asyncio.StreamWriter) -> None:
    """Answer as a model server does."""
    if request.path.endswith("/systemone"):
        await answer(200, decided(server, request.json))(server, request, writer)
    else:
        await _chat(server, request)(server, request, writer)


def _chat(server: ModelServer, request: Request) -> Behaviour:
    body = request.json
    for name in sorted(server.refuses & body.keys()):
        return refuse_parameter(name)
    mode = _mode(body)
    if mode in {"json_schema", "tools", "json_object"} - server.supports and not server.ignores_modes:
        name = "tool_choice" if mode == "tools" else "response_format"
        return refuse_parameter(name, f"'{name}' of type '{mode}' is not supported with this model")
    if (offered := _OFFERED.search(request.message)) is None:
        return says(server.says)
    label = server.label(request.message, re.findall(r"\w+", offered[1]))
    if server.ignores_modes:
        mode = "text"
    return says_label(label, mode, request.message)


def _mode(body: dict[str, Any]) -> str:
    return "tools" if "tools" in body else body.get("response_format", {}).get("type", "text")


def says_label(label: str, mode: str, message: str, reasons: str = "It fits.") -> Behaviour:
    """Answer with a label in the form of a mode."""
    verdict = json.dumps({"reasons": reasons, "label": label})
    if mode == "tools":
        return answer(200, completion(None, tool=verdict))
    if mode == "text":
        line = _LINE.search(message)
        return says(f"{reasons}\nVERDICT {line['mark']}: {label}" if line else f"{reasons} {label}")
    return says(verdict)


def decided(server: ModelServer, body: Any) -> bytes:
    """Return the answers to questions about a state: `probability` goes to the last option."""
    chance = server.probability(body["state"])
    answers: dict[str, Any] = {}
    for name, question in body["questions"].items():
        if question["type"] == "noul":
            answers[name] = {"type": "noul", "noul": chance}
            continue
        criteria = question["criteria"]
        keys = list(criteria) if isinstance(criteria, dict) else [str(n) for n in range(len(criteria))]
        others = (1 - chance) / (len(keys) - 1)
        shares = {key: chance if key == keys[-1] else others for key in keys}
        answers[name] = {"type": question["type"], "probabilities": shares, "confidence": chance}
        if question["type"] == "choice":
            answers[name]["choice"] = max(shares, key=shares.__getitem__)
        else:
            answers[name]["score"] = sum(place * share for place, share in enumerate(shares.values()))
    usage = {"input_tokens": 40, "output_tokens": 0}
    return json.dumps({"model": "local", "answers": answers, "usage": usage}).encode()


def completion(
    text: str | None, *, finish_reason: str = "stop", tool: str | None = None, usage: Any = ...
) -> bytes:
    """Return the body of a chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": text}
    if tool is not None:
        function = {"name": TOOL, "arguments": tool}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "local",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
    }
    if usage is not None:
        body["usage"] = {"prompt_tokens": 100, "completion_tokens": 20} if usage is ... else usage
    return json.dumps(body).encode()


# What a bad server does


def answer(status: int, body: bytes = b"", headers: str = "", kind: str = "application/json") -> Behaviour:
    """Answer with a status, headers and a body."""

    async def behaviour(_: ModelServer, __: Request, writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} S\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return behaviour


def says(text: str | None, **options: Any) -> Behaviour:
    """Answer with a chat completion of this text."""
    return answer(200, completion(text, **options))


def refuse(status: int, headers: str = "", **error: Any) -> Behaviour:
    """Answer with an error: `message`, `type`, `code`, `param`."""
    return answer(status, json.dumps({"error": {"message": "refused"} | error}).encode(), headers)


def refuse_parameter(name: str, message: str | None = None) -> Behaviour:
    """Refuse a parameter as OpenAI does."""
    text = message or f"Unsupported parameter: '{name}' is not supported with this model."
    return refuse(400, message=text, param=name, code="unsupported_parameter", type="invalid_request_error")


async def silence(server: ModelServer, request: Request, writer: asyncio.StreamWriter) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def reset(server: ModelServer, request: Request, writer: asyncio.StreamWriter) -> None:
    """Reset the connection instead of answering."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
    raise ConnectionResetError


async def break_off(server: ModelServer, request: Request, writer: asyncio.StreamWriter) -> None:
    """Close the connection in the middle of the answer."""
    writer.write(b"HTTP/1.1 200 S\r\nContent-Length: 1000\r\n\r\n{")
    await writer.drain()
    raise ConnectionResetError


async def drip(server: ModelServer, request: Request, writer: asyncio.StreamWriter) -> None:
    """Send a byte every 50 ms, without an end."""
    writer.write(b"HTTP/1.1 200 S\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1\r\n \r\n")
        await writer.drain()
        await asyncio.sleep(0.05)


async def endless(server: ModelServer, request: Request, writer: asyncio.StreamWriter) -> None:
    """Send an answer without an end or a length, as quickly as it is read."""
    writer.write(b"HTTP/1.1 200 S\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    while True:
        writer.write(chunk)
        await writer.drain()


def huge(count: int = 10_000_000) -> Behaviour:
    """Answer with a valid completion of this many bytes."""
    return says(json.dumps({"reasons": "x" * count, "label": "3"}))


def gzip_bomb(count: int = 200_000_000) -> Behaviour:
    """Answer with few bytes that decompress to many, although the client asked for none."""
    return answer(200, gzip.compress(b" " * count, compresslevel=9), "Content-Encoding: gzip\r\n")


def gzipped(body: bytes) -> Behaviour:
    """Answer with a compressed body."""
    return answer(200, gzip.compress(body), "Content-Encoding: gzip\r\n")


async def _main(port: int, latency_s: float) -> None:
    async with model_server(port, latency_s=latency_s) as server:
        server.keep_requests = False
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
