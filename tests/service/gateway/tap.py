"""Listens in on the connections to an engine."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_REQUEST = re.compile(rb"(?:GET|POST|DELETE) (\S+) HTTP/1\.1\r\n")


class Tap:
    """Forwards connections to a port of 127.0.0.1, and notes all that clients send."""

    def __init__(self, port: int) -> None:
        self.url = ""
        self.sent = b""
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._is_closed = False

    @property
    def paths(self) -> list[str]:
        """The paths of all requests, in the order of their arrival."""
        return [path.decode() for path in _REQUEST.findall(self.sent)]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, requests = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers |= {writer, requests}
        if self._is_closed:  # the connection was accepted before, and is served after
            self.close()

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await source.read(1 << 16):
                    if target is requests:
                        self.sent += data
                    target.write(data)
            target.close()

        async with asyncio.TaskGroup() as group:
            group.create_task(pass_on(reader, requests))
            group.create_task(pass_on(answers, writer))
        self._writers -= {writer, requests}

    def close(self) -> None:
        """Closes every connection: a server that ends waits for them from Python 3.12.1 on."""
        self._is_closed = True
        for writer in self._writers:
            writer.close()


@asynccontextmanager
async def tapped(port: int) -> AsyncIterator[Tap]:
    tap = Tap(port)
    server = await asyncio.start_server(tap.serve, "127.0.0.1", 0)
    tap.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield tap
        tap.close()
