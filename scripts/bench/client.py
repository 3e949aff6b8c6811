"""An HTTP client with little overhead of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import cast

_HEADERS_END = b"\r\n\r\n"
_CHUNKED = b"transfer-encoding: chunked"
_LAST_CHUNK = b"\r\n0\r\n\r\n"


class Refused(Exception):
    """The server answered with a status other than 2xx."""


class Connection(asyncio.Protocol):
    """One keep-alive connection, with one request at a time."""

    def __init__(self, host: str) -> None:
        self._host = host.encode()
        self._received = bytearray()
        self._answer: asyncio.Future[bytes] | None = None

    async def get(self, path: str) -> bytes:
        """The body of the answer; raises Refused, or ConnectionError."""
        return await self.send(b"GET %s HTTP/1.1\r\nHost: %s%s" % (path.encode(), self._host, _HEADERS_END))

    def post(self, path: str, body: bytes) -> bytes:
        """The bytes of a request, for `send`."""
        head = b"POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d%s"
        return head % (path.encode(), self._host, len(body), _HEADERS_END) + body

    async def send(self, request: bytes) -> bytes:
        """The body of the answer to a request, chunked or not as it came; raises Refused, or ConnectionError."""
        if self.closed:
            raise ConnectionResetError("the connection is closed")
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    @property
    def closed(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's transport does not derive from it

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(_HEADERS_END)
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        body = end + len(_HEADERS_END)
        if _CHUNKED in head:
            if not self._received.endswith(_LAST_CHUNK):
                return
        elif len(self._received) < body + _content_length(head):
            return
        answer, self._received = bytes(self._received[body:]), bytearray()
        if self._answer is None or self._answer.done():
            return
        if head.startswith(b"http/1.1 2"):
            self._answer.set_result(answer)
        else:
            self._answer.set_exception(
                Refused(f"{head.splitlines()[0].decode()}: {answer[:500].decode(errors='replace')}")
            )


def _content_length(head: bytes) -> int:
    _, named, rest = head.partition(b"content-length:")
    if not named:
        raise ValueError(f"an answer without a length: {head.decode()}")
    return int(rest.split(b"\r\n", 1)[0])


async def connect(port: int) -> Connection:
    """Opens a connection. Raises ConnectionError."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: Connection(f"127.0.0.1:{port}"), "127.0.0.1", port)
    return connection


@dataclass
class Load:
    """The latency of each request and the duration of the whole load, in seconds."""

    latencies: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def percentile(self, percent: float) -> float:
        """A percentile of the latencies, in milliseconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] * 1000


async def drive(connections: Sequence[Connection], requests: Sequence[Iterable[bytes]], seconds: float) -> Load:
    """Sends each connection's requests one after the other, until there are no more or `seconds` have passed."""
    load = Load()
    started = time.perf_counter()
    ends = started + seconds

    async def one(connection: Connection, own: Iterable[bytes]) -> None:
        for request in own:
            sent = time.perf_counter()
            await connection.send(request)
            answered = time.perf_counter()
            load.latencies.append(answered - sent)
            if answered >= ends:
                break

    async with asyncio.TaskGroup() as group:
        for connection, own in zip(connections, requests, strict=True):
            group.create_task(one(connection, own))
    load.seconds = time.perf_counter() - started
    return load
