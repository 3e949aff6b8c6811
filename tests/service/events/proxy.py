"""A bad network between a publisher and its subscriber: loses, repeats, delays and cuts, by a seed."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import zmq
import zmq.asyncio

from tests.waiting import reserved_port


@dataclass(frozen=True)
class Weather:
    """How likely each message is to be lost, to be repeated, and to come only after the next ones."""

    loses: float = 0.0
    repeats: float = 0.0
    delays: float = 0.0


class Proxy:
    """Subscribes to a publisher and publishes what comes, in that weather. An asynchronous context manager."""

    def __init__(self, publisher: str, weather: Weather, seed: int = 0) -> None:
        self.weather = weather
        self.lost = 0
        self._random = random.Random(seed)
        self._context = zmq.asyncio.Context()
        self._in = self._context.socket(zmq.SUB)
        self._in.rcvhwm = 0
        self._in.subscribe(b"")
        self._in.connect(publisher)
        self._port = ExitStack()
        self.address = f"tcp://127.0.0.1:{self._port.enter_context(reserved_port())}"
        self._out = self._open(self.address)
        self._delayed: list[list[bytes]] = []
        self._subscribed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def _open(self, address: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(zmq.XPUB)
        socket.sndhwm = 0
        socket.linger = 0
        try:
            socket.bind(address)
        except zmq.ZMQError:
            socket.close()
            raise
        return socket

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._forward()), asyncio.create_task(self._watch())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._in.close(linger=0)
        self._out.close(linger=0)
        await asyncio.to_thread(self._context.term)
        self._port.close()

    async def subscribed(self) -> None:
        """Waits until the subscriber is there, also after a cut."""
        await self._subscribed.wait()

    async def cut(self) -> None:
        """Ends the connection; it can be made again. What is published until then is lost."""
        self._tasks[1].cancel()
        await asyncio.gather(self._tasks[1], return_exceptions=True)
        self._subscribed.clear()
        self._out.close(linger=0)

    async def mend(self) -> None:
        """Lets the subscriber connect again."""
        while True:
            try:
                self._out = self._open(self.address)
                break
            except zmq.ZMQError:  # the closed socket leaves its port with a delay
                await asyncio.sleep(0.005)
        self._tasks[1] = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            if (await self._out.recv())[:1] == b"\x01":
                self._subscribed.set()

    async def _forward(self) -> None:
        while True:
            await self._pass_on(await self._in.recv_multipart())

    async def _pass_on(self, message: list[bytes]) -> None:
        draw = self._random.random
        if self._out.closed or draw() < self.weather.loses:
            self.lost += 1
        elif draw() < self.weather.delays:
            self._delayed.append(message)
        else:
            for _ in range(2 if draw() < self.weather.repeats else 1):
                await self._out.send_multipart(message)
            if self._delayed and draw() < 0.5:
                await self._out.send_multipart(self._delayed.pop(0))
