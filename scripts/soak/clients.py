"""Clients of a soak: scores whose latency is measured, slow ones, and ones that leave."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from time import perf_counter

import aiohttp

_PAUSE = 0.01
_SLOW = 8
_LEAVING_SECONDS = 0.05
_CHAT = json.dumps({"messages": [{"role": "user", "content": "How tall is the tower? " * 2000}]}).encode()


class Scores:
    """Sends one score after another and takes the time of each."""

    def __init__(self, port: int) -> None:
        self.failures = 0
        self.last_failure = ""
        self._url = f"http://127.0.0.1:{port}/score"
        self._times: list[float] = []
        self._random = random.Random(1)

    def taken(self) -> list[float]:
        """The seconds of the scores since the last call."""
        times, self._times = self._times, []
        return times

    async def run(self) -> None:
        async with aiohttp.ClientSession() as client:
            while True:
                start = self._random.randrange(1000)
                body = {"prompt": list(range(start, start + self._random.randrange(16, 4000)))}
                began = perf_counter()
                async with client.post(self._url, json=body) as response:
                    answer = await response.read()
                self._times.append(perf_counter() - began)
                if response.status != 200:
                    self.failures += 1
                    self.last_failure = f"{response.status} {answer[:200]!r}"
                await asyncio.sleep(_PAUSE)


async def slow_clients(port: int) -> None:
    """Several at a time send a body byte by byte, and are dropped by the service."""

    async def one() -> None:
        while True:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.3", 0))
                writer.write(b"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n")
                for _ in range(100):
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(0.1)
                writer.close()

    await asyncio.gather(*(one() for _ in range(_SLOW)))


async def leaving_clients(port: int) -> None:
    """One after another sends a long chat and leaves before the answer."""
    while True:
        with suppress(ConnectionError):
            _, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.4", 0))
            head = f"POST /score_completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(_CHAT)}\r\n\r\n"
            writer.write(head.encode() + _CHAT)
            await asyncio.sleep(random.random() * _LEAVING_SECONDS)
            writer.transport.abort()
        await asyncio.sleep(_LEAVING_SECONDS)
