"""An engine whose answers are bytes that a test writes, for answers that no simulated engine gives."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeAlias


class Received(NamedTuple):
    """A request as it arrived."""

    method: str
    target: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


Respond: TypeAlias = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def answer(
    body: bytes, status: bytes = b"200 OK", headers: bytes = b"Content-Type: application/json\r\n"
) -> Callable[[Received, asyncio.StreamWriter], Awaitable[None]]:
    """Responds to every request with these bytes."""

    async def respond(_: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n%b" % (status, headers, len(body), body))

    return respond


class ScriptedEngine:
    """Answers the questions of a health check itself, and every other request with `respond`."""

    def __init__(self, models: Sequence[str], respond: Respond) -> None:
        self.respond = respond
        self.requests: list[Received] = []
        """All but the questions of a health check."""
        self.health_checks = 0
        self.port = 0
        self.facts: dict[str, object] = {}
        """Answers of GET requests by path, beside /health and /v1/models."""
        self.renders = False
        """Whether `respond` also answers the questions of a comparison of tokens."""
        self.models = list(models)
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_closed = False

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._writers)

    @property
    def pod(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.pod}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while not self._is_closed:  # one may have been accepted before, and be served after
                received = await _read(reader)
                await self._answer(received, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def close(self) -> None:
        """Closes every connection: a server that ends waits for them from Python 3.12.1 on."""
        self._is_closed = True
        for writer in self._writers:
            writer.close()

    async def _answer(self, received: Received, writer: asyncio.StreamWriter) -> None:
        models = {"object": "list", "data": [{"id": name, "object": "model"} for name in self.models]}
        match received.method, received.target:
            case "GET", "/health":
                self.health_checks += 1
                await answer(b"")(received, writer)
            case "GET", "/v1/models":
                await answer(json.dumps(models).encode())(received, writer)
            case "GET", path if path in self.facts:
                await answer(json.dumps(self.facts[path]).encode())(received, writer)
            case "GET", "/kv_event_sources" | "/server_info" | "/version" | "/metrics":
                await answer(b"{}", b"404 Not Found")(received, writer)
            case "POST", "/tokenize" | "/v1/chat/completions/render" | "/v1/completions/render" if not self.renders:
                await answer(b"{}", b"404 Not Found")(received, writer)
            case _:
                self.requests.append(received)
                await self.respond(received, writer)


async def _read(reader: asyncio.StreamReader) -> Received:
    """Raises IncompleteReadError at the end of the connection."""
    first, *lines = (await reader.readuntil(b"\r\n\r\n"))[:-4].split(b"\r\n")
    method, target, _ = first.decode().split(" ")
    headers = tuple((name, value.strip()) for name, _, value in (line.partition(b":") for line in lines))
    length = next((int(value) for name, value in headers if name.lower() == b"content-length"), 0)
    return Received(method, target, headers, await reader.readexactly(length))


@asynccontextmanager
async def scripted(
    respond: Respond, *models: str, facts: Mapping[str, object] | None = None
) -> AsyncIterator[ScriptedEngine]:
    """Runs an engine that serves `models` until the context ends."""
    engine = ScriptedEngine(models or ("builtin/demo",), respond)
    engine.facts.update(facts or {})
    server = await asyncio.start_server(engine.serve, "127.0.0.1", 0, limit=1 << 20)
    engine.port = server.sockets[0].getsockname()[1]
    async with server:
        yield engine
        engine.close()
