"""A worker's end of the socket to its supervisor: takes the connections that are handed over."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from service.workers.acceptor import SURPLUS, WorkerMessage

logger = logging.getLogger(__name__)

_PER_TURN: Final = 16


class HandedConnections:
    """Takes connections from the supervisor. `gone` is called when it hands over none any more."""

    def __init__(self, channel: int, gone: Callable[[], None]) -> None:
        """`channel` is the descriptor of the socket to the supervisor."""
        self._socket = socket.socket(fileno=channel)
        self._socket.setblocking(False)
        self._socket.set_inheritable(False)
        self._gone = gone
        self._takers: dict[int, Callable[[socket.socket], None]] = {}
        self._take_surplus: Callable[[int], None] = lambda count: None
        self._has_ended = asyncio.Event()
        self._has_lost = False
        self._untold = bytearray()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._socket, self._read)

    def take(self, port: int, taker: Callable[[socket.socket], None] | None) -> None:
        """Gives connections of a port to a taker; None ends that."""
        if taker is None:
            self._takers.pop(port, None)
        else:
            self._takers[port] = taker

    def take_surplus(self, taker: Callable[[int], None]) -> None:
        """Gives the number of connections that should go to other workers to a taker, as often as it is told."""
        self._take_surplus = taker

    async def last_taken(self, seconds: float) -> None:
        """Waits until the supervisor has handed over its last connection, for so long at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._has_ended.wait()

    def tell(self, message: WorkerMessage) -> None:
        self._untold.append(message)
        with suppress(OSError):  # the supervisor is slow: with the next message; or it has ended
            del self._untold[: self._socket.send(self._untold)]

    def receive_all(self) -> None:
        """Takes connections that wait in the channel."""
        while self._receive():
            pass

    def close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        for _ in range(_PER_TURN):
            if not self._receive():
                return

    def _receive(self) -> bool:
        """Takes one connection or message; False if none waits."""
        try:
            ports, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                self._end()
            return False
        if not ports:
            self._end()
            return False
        if ports[0] >= SURPLUS:
            self._take_surplus(ports[0] - SURPLUS)
        elif not descriptors:
            self._lose()
        for descriptor in descriptors:
            connection = socket.socket(fileno=descriptor)
            taker = self._takers.get(ports[0])
            if taker is None:
                connection.close()
                self.tell(WorkerMessage.CONNECTION_ENDED)
            else:
                connection.setblocking(False)
                taker(connection)
        return True

    def _lose(self) -> None:
        """Tells of a connection that the system closed, since this process has no descriptor left for it."""
        self.tell(WorkerMessage.CONNECTION_ENDED)
        if not self._has_lost:
            self._has_lost = True
            logger.error("connections are lost: too many open files; raise the limit (ulimit -n)")

    def _end(self) -> None:
        self._loop.remove_reader(self._socket)
        self._has_ended.set()
        self._gone()
