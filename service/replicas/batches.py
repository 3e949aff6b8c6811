"""The batches of engines that connect to us, which reach one replica only: it hands them on as they came.

Each connection of an engine has a log. The others read it from its beginning, as if the engine had connected to their
own endpoint with the same address, so that the rules of sequences see what they would see there. An engine that is
heard directly is not heard through a log.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Final

import msgspec

from service.contract.endpoints import Endpoint
from service.events.messages import Message
from service.events.pool import EventPool
from service.replicas.shared.state import SharedState

_TABLE: Final = "connections"
_SECONDS: Final = 10.0
"""A connection of which its replica has not told for so long has ended."""


class _Connection(msgspec.Struct, frozen=True, array_like=True):
    replica: str
    address: str


class _Batch(msgspec.Struct, frozen=True, array_like=True):
    topic: bytes
    sequence: int
    payload: bytes
    peer: str | None


_NO_CONNECTION: Final = -1
"""The number that stands for no connection in sequencers; connections to other replicas have lower numbers."""

_connections = msgspec.msgpack.Decoder(_Connection)
_batches = msgspec.msgpack.Decoder(_Batch)
_encode = msgspec.msgpack.Encoder().encode


class SharedBatches:
    """Hands on what engines send here, and takes what they send to other replicas."""

    def __init__(self, shared: SharedState, pool: EventPool) -> None:
        self._shared = shared
        self._pool = pool
        self._own: dict[str, bytes] = {}
        """The announced connections of engines to this replica, by log."""
        self._followed: dict[str, tuple[str, int]] = {}
        """The address and the number of each connection that an engine has to another replica, by log."""
        self._last = _NO_CONNECTION

    async def run(self) -> None:
        """Begins when the pool takes messages."""
        await self._pool.begun()
        self._pool.on_bound_message, self._pool.on_bound_disconnect = self._hand_on, self._lost
        self._shared.watch_beat(self._tell_all)
        self._shared.watch(_TABLE, self._changed)
        await asyncio.Event().wait()

    def _log(self, endpoint: Endpoint, connection: int) -> str:
        return f"{self._shared.name}/{endpoint.address}/{connection}"

    def _hand_on(self, endpoint: Endpoint, message: Message) -> None:
        log = self._log(endpoint, message.connection or 0)
        if log not in self._own:
            self._own[log] = _encode(_Connection(self._shared.name, endpoint.address))
            self._shared.put(_TABLE, log, self._own[log], _SECONDS)
        self._shared.append(log, _encode(_Batch(message.topic, message.sequence, message.payload, message.peer)))

    def _lost(self, endpoint: Endpoint, connection: int) -> None:
        log = self._log(endpoint, connection)
        if self._own.pop(log, None) is not None:
            self._shared.remove(_TABLE, log)

    def _tell_all(self) -> None:
        for log, told in self._own.items():
            self._shared.put(_TABLE, log, told, _SECONDS)

    def _changed(self, log: str, value: bytes | None) -> None:
        if value is None:
            self._leave(log)
            return
        told = _connections.decode(value)
        subscription = self._pool.bound(told.address)
        if told.replica == self._shared.name or log in self._followed or subscription is None:
            return
        self._last -= 1
        self._followed[log] = told.address, self._last
        subscription.join(self._last)
        self._shared.follow(log, partial(self._take, told.address, self._last))

    def _leave(self, log: str) -> None:
        address, connection = self._followed.pop(log, ("", 0))
        if connection:
            self._shared.unfollow(log)
            if (subscription := self._pool.bound(address)) is not None:
                subscription.leave(connection)

    def _take(self, address: str, connection: int, entry: bytes) -> None:
        batch, subscription = _batches.decode(entry), self._pool.bound(address)
        if subscription is not None:
            self._pool.received(
                subscription, Message(batch.topic, batch.sequence, batch.payload, connection, batch.peer)
            )
