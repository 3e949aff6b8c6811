"""The snapshot in the store of SHARED_STATE, for replicas with BOOTSTRAP_FROM=shared.

Keys begin with `{PREFIX}:FORMAT:snapshot:VERSION`, so that replicas of different versions keep snapshots of their own.

| key | holds |
| --- | --- |
| `…:lease` | the name of the replica that writes, with an expiry |
| `…` | which list is the last whole snapshot, and how many pieces it has |
| `…:NUMBER` | a list of pieces; it expires if its writer does not finish it |

Pieces are small and go one by one over a connection of their own, so that what replicas tell each other hardly waits.
Two writers at once, after a lease that expired too early, harm nothing: each writes a list of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from secrets import token_hex
from time import time
from typing import Any, Final, TypeAlias

from redis.asyncio import Redis, RedisCluster
from redis.exceptions import RedisError

from service.contract.shared_state import ValkeyAddress
from service.replicas.shared.base import FORMAT
from service.replicas.shared.valkey_client import connect, disconnect
from service.replicas.snapshot_format import VERSION, Record, SnapshotError, frame, start

Client: TypeAlias = Redis | RedisCluster
_PIECE: Final = 256 * 1024
_PIECES_PER_CHECK: Final = 16
_MAX_SHARE: Final = 0.8
"""A store without memory serves no replica any more: a snapshot leaves this much of `maxmemory` to others."""
_ANSWER_SECONDS: Final = 5.0
_UNFINISHED_SECONDS: Final = 60
_KEPT_SECONDS: Final = 86_400
"""How long a snapshot is there after the last replica."""
_MIN_LEASE_SECONDS: Final = 10.0


class StoreError(OSError):
    """The store does not answer, refuses, or is too full."""


class SnapshotStore:
    """A `SnapshotPlace` in a Valkey. The right to write is a lease, which ends some intervals after its holder."""

    is_shared: Final = True

    def __init__(self, address: ValkeyAddress, prefix: str, replica: str, interval: float) -> None:
        """`replica` is this one's name, `interval` the seconds between calls of `acquire`."""
        self._address = address
        self._replica = replica
        self._lease_ms = round(max(_MIN_LEASE_SECONDS, 3 * interval) * 1000)
        self._key = f"{{{prefix}}}:{FORMAT}:snapshot:{VERSION}"
        self._lease = f"{self._key}:lease"
        self._holds = 0
        self._written: str | None = None
        self._client: Client | None = None

    @property
    def name(self) -> str:
        return str(self._address)

    async def acquire(self) -> int:
        async with self._connected() as client:
            if await _answer(client.set(self._lease, self._replica, nx=True, px=self._lease_ms)):
                self._holds += 1
                return self._holds
            if await _answer(client.get(self._lease)) != self._replica.encode():
                return 0
            await _answer(client.pexpire(self._lease, self._lease_ms))
            for key in (self._key, self._written):
                if key is not None:
                    await _answer(client.expire(key, _KEPT_SECONDS))
            # The answer that gave the lease may have been lost.
            self._holds = max(self._holds, 1)
            return self._holds

    async def release(self) -> None:
        try:
            if self._client is not None:
                async with self._connected() as client:
                    if await _answer(client.get(self._lease)) == self._replica.encode():
                        await _answer(client.delete(self._lease))
        finally:
            await self._disconnect()

    async def begin(self) -> StoreWriting:
        async with self._connected() as client:
            return StoreWriting(client, f"{self._key}:{token_hex(4)}", self._finished)

    async def _finished(self, client: Client, key: str, pieces: int) -> None:
        former = _pointer(await _answer(client.get(self._key)))
        await _answer(client.expire(key, _KEPT_SECONDS))
        await _answer(client.set(self._key, f"{key} {pieces}", ex=_KEPT_SECONDS))
        self._written = key
        if former is not None:
            await _answer(client.unlink(former[0]))

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises SnapshotError when a newer snapshot takes the place of the one that is being read."""
        async with self._connected() as client:
            pointer = _pointer(await _answer(client.get(self._key)))
            if pointer is None:
                return
            key, count = pointer
            for number in range(count):
                piece = await _answer(client.lindex(key, number))
                if piece is None:
                    raise SnapshotError("a newer one took its place")
                yield piece

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        """A client; after an error, the next one is new. Raises StoreError."""
        try:
            if self._client is None:
                self._client = connect(self._address)
            yield self._client
        except (RedisError, OSError) as error:
            await self._disconnect()
            raise _error(error) from error

    async def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(RedisError, OSError):
                await _answer(disconnect(client))


class StoreWriting:
    """A `Writing` into a list."""

    def __init__(self, client: Client, key: str, finished: Callable[[Client, str, int], Any]) -> None:
        self.size = 0
        self._client = client
        self._key = key
        self._finished = finished
        self._count = 0
        self._waiting = bytearray(start(time()))

    async def add(self, records: Iterable[Record]) -> None:
        for record in records:
            self._waiting += await asyncio.to_thread(frame, record)
            await self._send(_PIECE)

    async def finish(self, end: Record) -> None:
        self._waiting += frame(end)
        await self._send(1)
        try:
            await self._finished(self._client, self._key, self._count)
        except (RedisError, OSError) as error:
            raise _error(error) from error

    async def abandon(self) -> None:
        with suppress(RedisError, OSError):  # it expires
            await _answer(self._client.unlink(self._key))

    async def _send(self, least: int) -> None:
        """Sends what waits, if it is at least so many bytes."""
        if len(self._waiting) < least:
            return
        data, self._waiting = self._waiting, bytearray()
        try:
            for piece in _cut(data):
                if self._count % _PIECES_PER_CHECK == 0:
                    await _check_room(self._client, self._key)
                await _answer(self._client.rpush(self._key, piece))
                await _answer(self._client.expire(self._key, _UNFINISHED_SECONDS))
                self._count += 1
                self.size += len(piece)
        except (RedisError, OSError) as error:
            raise _error(error) from error


def _cut(data: bytearray) -> Iterator[bytes]:
    view = memoryview(data)
    for at in range(0, len(view), _PIECE):
        yield bytes(view[at : at + _PIECE])


async def _check_room(client: Client, key: str) -> None:
    """Raises StoreError if the memory of the store is short."""
    node = {"target_nodes": client.get_node_from_key(key)} if isinstance(client, RedisCluster) else {}
    memory = await _answer(client.info("memory", **node))
    most = int(memory.get("maxmemory", 0))
    if most and int(memory["used_memory"]) + _PIECES_PER_CHECK * _PIECE > _MAX_SHARE * most:
        raise StoreError(f"it would be full to more than {_MAX_SHARE:.0%} of its maxmemory ({most} bytes): raise it")


async def _answer(coroutine: Any) -> Any:
    async with asyncio.timeout(_ANSWER_SECONDS):
        return await coroutine


def _pointer(value: bytes | None) -> tuple[str, int] | None:
    if value is None:
        return None
    key, _, count = value.decode().rpartition(" ")
    return key, int(count)


def _error(error: Exception) -> StoreError:
    if isinstance(error, StoreError):
        return error
    if isinstance(error, TimeoutError):
        return StoreError(f"no answer for {_ANSWER_SECONDS:g} s")
    return StoreError(str(error) or type(error).__name__)
