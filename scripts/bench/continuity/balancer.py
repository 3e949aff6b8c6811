"""A plain TCP balancer: connections in turn to the replicas whose /ready answers 200, bytes as they come.

A connection that is refused goes to the next replica, as with HAProxy's `option redispatch`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import aiohttp

from scripts.bench.continuity.services import Replica

_CHECK_SECONDS = 0.1
_PIECE = 64 * 1024


class Balancer:
    """`port` is where clients connect to."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self.port = 0
        self._replicas = list(replicas)
        self._ready: set[int] = {one.port for one in replicas}
        self._next = 0
        self._led_to: dict[int, int] = {}
        """The replica's port by the client's port."""

    def led_to(self, client_port: int) -> int | None:
        return self._led_to.get(client_port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        client_port = writer.get_extra_info("peername")[1]
        try:
            for replica in self._in_turn():
                try:
                    there = await asyncio.open_connection("127.0.0.1", replica.port)
                except OSError:
                    continue
                self._led_to[client_port] = replica.port
                await asyncio.gather(_copy(reader, there[1]), _copy(there[0], writer))
                return
        finally:
            writer.close()

    def _in_turn(self) -> list[Replica]:
        self._next += 1
        at = self._next % len(self._replicas)
        turned = [*self._replicas[at:], *self._replicas[:at]]
        return sorted(turned, key=lambda one: one.port not in self._ready)

    async def check(self) -> None:
        """Asks /ready of all, until it is cancelled."""
        timeout = aiohttp.ClientTimeout(total=1.0)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            while True:
                await asyncio.gather(*(self._check(session, one) for one in self._replicas))
                await asyncio.sleep(_CHECK_SECONDS)

    async def _check(self, session: aiohttp.ClientSession, replica: Replica) -> None:
        is_ready = False
        with suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"{replica.url}/ready") as response:
                is_ready = response.status == 200
        (self._ready.add if is_ready else self._ready.discard)(replica.port)


async def _copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await source.read(_PIECE):
            to.write(piece)
            await to.drain()
    with suppress(OSError):
        to.close()


@asynccontextmanager
async def balancing(replicas: Sequence[Replica]) -> AsyncIterator[Balancer]:
    balancer = Balancer(replicas)
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0, backlog=1024)
    balancer.port = server.sockets[0].getsockname()[1]
    checking = asyncio.create_task(balancer.check())
    try:
        yield balancer
    finally:
        checking.cancel()
        await asyncio.gather(checking, return_exceptions=True)
        server.close()
