"""The supervisor's end of the shared ports: accepts connections, and hands each to the worker with the fewest.

One byte goes with each connection, the number of its port; a byte alone is a surplus, added to SURPLUS. Bytes of a
worker tell of its state, as in `WorkerMessage`.

A worker that becomes ready late, as after a restart, finds the connections of clients that keep them at the others. So
a worker that has many more than another is told its surplus, and ends so many of them with their next answers.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from enum import IntEnum
from math import ceil
from time import monotonic
from typing import Final

from service.quiet import until_quiet

_BACKLOG: Final = 1024
_PER_TURN: Final = 64
"""Connections accepted before the event loop does other work."""
_LATE_SECONDS: Final = 4
SURPLUS: Final = 128
"""Added to the number of connections that a worker should end, in the byte that tells it."""
_MAX_SURPLUS: Final = 255 - SURPLUS
_SPREAD_SECONDS: Final = 1.0
_UNEVEN: Final = 1.25
"""A worker with more than so many times the connections of another one, plus one, is told to end some."""
_PAUSE: Final = 0.1
"""Seconds until the next attempt, when descriptors or room in the channels of all workers have run out."""


class WorkerMessage(IntEnum):
    """A message of a worker to its supervisor, in one byte. READY or NOT_READY is sent every second."""

    LISTENING = 1
    READY = 2
    NOT_READY = 3
    CONNECTION_ENDED = 4


class Channel:
    """The supervisor's end of the socket to one worker."""

    def __init__(self) -> None:
        self.socket, self.of_worker = socket.socketpair()
        self.socket.setblocking(False)
        self.connections = 0
        self.is_listening = asyncio.Event()
        self.is_ready = False
        self.silent = 0
        """Seconds that the supervisor ran since the worker told something: not those of a machine that is suspended."""
        self._surplus = 0

    def hand_over(self, port: int, connection: socket.socket) -> bool:
        """Gives a connection to the worker; False if it cannot take one."""
        try:
            socket.send_fds(self.socket, [bytes([port])], [connection.fileno()])
        except OSError:
            return False
        self.connections += 1
        return True

    def tell_surplus(self, count: int) -> None:
        """Tells the worker how many of its connections should go to others, until there are none."""
        if count or self._surplus:
            with suppress(OSError):  # it reads nothing, or has ended
                self.socket.send(bytes([SURPLUS + min(count, _MAX_SURPLUS)]))
                self._surplus = count

    def read(self) -> bool:
        """Reads what the worker told; False when it has ended."""
        try:
            received = self.socket.recv(4096)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self.silent = 0
        for message in received:
            match message:
                case WorkerMessage.LISTENING:
                    self.is_listening.set()
                case WorkerMessage.READY | WorkerMessage.NOT_READY:
                    self.is_ready = message == WorkerMessage.READY
                case WorkerMessage.CONNECTION_ENDED:
                    self.connections -= 1
        return bool(received)

    def end(self) -> None:
        """Tells the worker that no connection follows."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.socket.close()
        self.of_worker.close()


class Acceptor:
    """Accepts on the sockets of several ports.

    A worker that is not ready, or was silent for a few seconds, gets connections only if there is no other.
    """

    def __init__(self, ports: Sequence[Iterable[socket.socket]]) -> None:
        self._listening = [(number, listening) for number, sockets in enumerate(ports) for listening in sockets]
        self._channels: list[Channel] = []
        self._loop = asyncio.get_running_loop()
        self._is_accepting = False
        self._last_connection = 0.0
        self._spreading = self._loop.call_later(_SPREAD_SECONDS, self._spread)

    def add(self, channel: Channel) -> None:
        self._channels.append(channel)
        self._loop.add_reader(channel.socket, self._read, channel)

    def remove(self, channel: Channel) -> None:
        """Ends the use of a channel, and closes it."""
        if channel in self._channels:
            self._channels.remove(channel)
            self._loop.remove_reader(channel.socket)
            channel.close()
            self._look()

    async def drain(self, seconds: float) -> None:
        """Hands over connections until none come, for a part of `seconds` at most; then there are no more."""
        await until_quiet(lambda: self._last_connection, seconds)
        self.close()

    def close(self) -> None:
        """Ends listening, and tells the workers so; the channels stay."""
        self._spreading.cancel()
        for port, listening in self._listening:
            self._accept(port, listening, at_most=_BACKLOG)  # those that wait would be reset
        self._stop()
        for _, listening in self._listening:
            listening.close()
        self._listening = []
        for channel in self._channels:
            channel.end()

    def _read(self, channel: Channel) -> None:
        if not channel.read():
            self.remove(channel)
        self._look()

    def _look(self) -> None:
        """Accepts while a worker listens; until then connections wait in the system's queue."""
        if any(channel.is_listening.is_set() for channel in self._channels):
            self._start()
        else:
            self._stop()

    def _start(self) -> None:
        if not self._is_accepting:
            self._is_accepting = True
            for port, listening in self._listening:
                self._loop.add_reader(listening, self._accept, port, listening)

    def _stop(self) -> None:
        self._is_accepting = False
        for _, listening in self._listening:
            self._loop.remove_reader(listening)

    def _accept(self, port: int, listening: socket.socket, at_most: int = _PER_TURN) -> None:
        for _ in range(at_most):
            try:
                connection, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # too many open files
                self._pause()
                return
            self._last_connection = monotonic()
            with connection:
                if not self._hand_over(port, connection):
                    self._pause()
                    return

    def _hand_over(self, port: int, connection: socket.socket) -> bool:
        listening = [channel for channel in self._channels if channel.is_listening.is_set()]
        fewest_first = sorted(self._ready() or listening, key=lambda channel: channel.connections)
        return any(channel.hand_over(port, connection) for channel in fewest_first)

    def _ready(self) -> list[Channel]:
        return [
            channel
            for channel in self._channels
            if channel.is_listening.is_set() and channel.is_ready and channel.silent < _LATE_SECONDS
        ]

    def _spread(self) -> None:
        """Tells each worker that has many more connections than another how many it should end."""
        ready = self._ready()
        fewest = min((channel.connections for channel in ready), default=0)
        for channel in ready:
            is_uneven = channel.connections > fewest * _UNEVEN + 1
            fair = ceil(sum(one.connections for one in ready) / len(ready))
            channel.tell_surplus(channel.connections - fair if is_uneven else 0)
        self._spreading = self._loop.call_later(_SPREAD_SECONDS, self._spread)

    def _pause(self) -> None:
        self._stop()
        self._loop.call_later(_PAUSE, self._look)


async def listen(host: str, port: int) -> list[socket.socket]:
    """Listens on all addresses of a host, as asyncio does, and for `::` on IPv4 too. Raises OSError."""
    if host == "::" and socket.has_dualstack_ipv6():
        sockets = [
            socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG),
        ]
    else:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        sockets = []
        for family, address in dict.fromkeys((family, address) for family, _, _, _, address in found):
            sockets.append(socket.create_server(address[:2], family=family, backlog=_BACKLOG))
    for listening in sockets:
        listening.setblocking(False)
    return sockets
