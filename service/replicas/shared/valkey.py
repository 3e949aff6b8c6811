"""The carrier over Valkey or Redis.

Keys begin with `{PREFIX}:FORMAT:`; the braces keep them on one node of a cluster.

| key | holds |
| --- | --- |
| `frames` | a stream with the frames of the last seconds; every replica reads it |
| `NAME` of a value, such as `replicas:host-1234` | the value, with its expiry |
| `names` | a set with the names of all values, so that nothing scans |
| `log:NAME` | a stream with the last entries of a log |

`{PREFIX}:format` says which version the fleet speaks. A stream and not a channel carries the frames, because a channel
of a cluster goes through all of its nodes, and because a stream that cannot be written says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic, time
from typing import Any, Final, TypeAlias, TypeVar

import msgspec
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import Pipeline
from redis.asyncio.cluster import ClusterPipeline
from redis.exceptions import OutOfMemoryError

from service.contract.shared_state import ValkeyAddress
from service.replicas.shared.base import FORMAT, CarrierStatus, Receiver
from service.replicas.shared.log_bounds import LogBounds
from service.replicas.shared.valkey_client import connect, disconnect

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
Client: TypeAlias = Redis | RedisCluster
_FRAMES_LENGTH: Final = 10_000
_LOG_SECONDS: Final = 3600
_FORMAT_SECONDS: Final = 15
_GAP_SECONDS: Final = 0.005
"""Between two writes, and between two reads: frames of this time travel together."""
_ANSWER_SECONDS: Final = 1.0
"""A store that takes longer is down."""
_LINK_SECONDS: Final = 4.0
"""For connections to be opened, and everything to be read that is kept."""
_BLOCK_SECONDS: Final = 1.0
_TURN_SECONDS: Final = 0.005
_BATCH_FRAMES: Final = 1_000
_BATCH_ENTRIES: Final = 200
_BATCH_BYTES: Final = 4 << 20
_READ_COUNT: Final = 100
_MAX_WAITING: Final = 10_000
_MAX_WAITING_BYTES: Final = 64 << 20
"""Entries of logs; frames are small."""
_NAMES_AT_ONCE: Final = 1_000
_PAUSES: Final = (0.1, 1.0)
_FRAMES: Final = b"f"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[bytes]).decode


class OtherFormat(Exception):
    """The fleet speaks another version."""


class ValkeyCarrier:
    """Carries frames through a Valkey. Fleets with different prefixes do not meet."""

    def __init__(self, address: ValkeyAddress, prefix: str) -> None:
        self._address = address
        self._prefix = f"{{{prefix}}}:{FORMAT}:"
        self._format_key = f"{{{prefix}}}:format"
        self._frames_key = self._prefix + "frames"
        self._names_key = self._prefix + "names"
        self._receiver: Receiver | None = None
        self._frames: deque[bytes] = deque()
        self._kept: dict[str, tuple[bytes, float | None]] = {}
        self._entries: deque[tuple[str, bytes]] = deque()
        self._entries_bytes = 0
        self._bounds = LogBounds(_LOG_SECONDS)
        self._is_waiting = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()
        self._logs: dict[str, bytes] = {}
        """The logs that are followed, by key, with the last id that was read."""
        self._names: dict[str, str] = {}
        self._at = b"0-0"
        self._format_until = 0.0
        self._down_since: float | None = time()
        self._problem: str | None = "not connected yet"
        self._is_told = False
        self._sent = self._received = self._dropped = 0
        self._running: asyncio.Task[None] | None = None
        self._client: Client | None = None

    async def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._running = asyncio.create_task(self._run(receiver), name="valkey")

    async def close(self) -> None:
        if self._down_since is None:
            with suppress(TimeoutError):
                async with asyncio.timeout(_ANSWER_SECONDS / 4):
                    await self._is_idle.wait()
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
            await _close(self._client)  # if it was cancelled while it closed this itself

    def send(self, frame: bytes) -> None:
        if self._has_room(self._frames):
            self._frames.append(frame)
            self._wake()

    def keep(self, key: str, value: bytes, seconds: float | None) -> None:
        if self._down_since is None:  # otherwise `linked` asks for all that is missing
            self._kept[key] = value, seconds
            self._wake()

    def append(self, log: str, entry: bytes) -> None:
        if self._has_room(self._entries, self._entries_bytes + len(entry)):
            self._entries.append((log, entry))
            self._entries_bytes += len(entry)
            self._wake()

    def follow(self, log: str) -> None:
        key = self._log_key(log)
        self._logs[key] = b"0-0"
        self._names[key] = log

    def unfollow(self, log: str) -> None:
        self._logs.pop(self._log_key(log), None)
        self._names.pop(self._log_key(log), None)

    def status(self) -> CarrierStatus:
        return CarrierStatus(self._down_since, self._problem, self._sent, self._received, self._dropped)

    def _log_key(self, log: str) -> str:
        return f"{self._prefix}log:{log}"

    def _has_room(self, waiting: deque[Any], size: int = 0) -> bool:
        has_room = self._down_since is None and len(waiting) < _MAX_WAITING and size < _MAX_WAITING_BYTES
        self._dropped += not has_room
        return has_room

    def _wake(self) -> None:
        self._is_waiting.set()
        self._is_idle.clear()

    # The connection

    async def _run(self, receiver: Receiver) -> None:
        shortest, longest = _PAUSES
        pause = shortest
        while True:
            client: Client | None = None
            try:
                client = self._client = connect(self._address)
                kept = await _in_time(self._link(client), _LINK_SECONDS)
                pause = shortest
                self._up()
                receiver.linked(kept)
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._read(client, receiver))
                    tasks.create_task(self._write(client))
            except (Exception, BaseExceptionGroup) as error:
                self._down(_first(error))
            finally:
                await _close(client)
            await asyncio.sleep(pause)
            pause = min(pause * 2, longest)

    async def _link(self, client: Client) -> dict[str, bytes]:
        """Checks the version, and gives what is kept."""
        # Reader and writer find their connections open: to open one takes several round trips with TLS and Sentinels.
        async with asyncio.TaskGroup() as opening:
            for _ in range(2):
                opening.create_task(client.get(self._format_key))
        await self._check_format(client)
        self._at = await _last_id(client, self._frames_key)
        for key, at in list(self._logs.items()):
            last = await _last_id(client, key)
            if _order(last) < _order(at):  # it has lost what was read already
                self._logs[key] = b"0-0"
        names = [name.decode() for name in await client.smembers(self._names_key)]
        kept: dict[str, bytes] = {}
        for start in range(0, len(names), _NAMES_AT_ONCE):
            some = names[start : start + _NAMES_AT_ONCE]
            values = await client.mget([self._prefix + name for name in some])
            kept.update({name: value for name, value in zip(some, values, strict=True) if value is not None})
        if expired := [name for name in names if name not in kept]:
            await client.srem(self._names_key, *expired)
        return kept

    async def _check_format(self, client: Client) -> None:
        await client.set(self._format_key, str(FORMAT), nx=True, ex=_FORMAT_SECONDS)
        found = await client.get(self._format_key)
        if found is not None and found != str(FORMAT).encode():
            raise OtherFormat(
                f"the replicas there have version {found.decode(errors='replace')} of what they share, this one has "
                f"{FORMAT}: replace the older ones, or set SHARED_STATE_PREFIX"
            )
        self._format_until = 0.0

    def _up(self) -> None:
        if self._is_told:
            logger.info("Shared state: %s is up again", self._address)
        else:
            logger.info("Shared state: %s is up", self._address)
        self._down_since = self._problem = None
        self._is_told = False

    def _down(self, error: BaseException) -> None:
        if self._down_since is None:
            self._down_since = time()
        self._dropped += len(self._frames) + len(self._entries)
        self._frames.clear()
        self._entries.clear()
        self._entries_bytes = 0
        self._kept.clear()
        self._problem = _reason(error)
        if not self._is_told:
            self._is_told = True
            logger.warning("Shared state: %s is down: %s", self._address, self._problem)
            logger.debug("The reason", exc_info=error)

    # What goes out

    async def _write(self, client: Client) -> None:
        while True:
            await self._is_waiting.wait()
            self._is_waiting.clear()
            while self._frames or self._entries or self._kept:
                pipeline = client.pipeline(transaction=False)
                count = self._fill(pipeline)
                for answer in await _in_time(pipeline.execute(raise_on_error=False), _ANSWER_SECONDS):
                    if isinstance(answer, Exception):
                        raise answer
                self._sent += count
                await asyncio.sleep(_GAP_SECONDS)
            self._is_idle.set()

    def _fill(self, pipeline: Pipeline | ClusterPipeline) -> int:
        """Puts into a pipeline what waits, or as much as one round trip should carry; returns how much."""
        kept, self._kept = self._kept, {}
        for key, (value, seconds) in kept.items():
            pipeline.set(self._prefix + key, value, px=None if seconds is None else max(1, round(seconds * 1000)))
        if kept:
            pipeline.sadd(self._names_key, *kept)
        if monotonic() >= self._format_until:
            self._format_until = monotonic() + _FORMAT_SECONDS / 3
            pipeline.set(self._format_key, str(FORMAT), ex=_FORMAT_SECONDS)
        frames = _take(self._frames, _BATCH_FRAMES)
        if frames:
            pipeline.xadd(self._frames_key, {_FRAMES: _encode(frames)}, maxlen=_FRAMES_LENGTH, approximate=True)
        entries = self._take_entries()
        for log, entry in entries:
            most = self._bounds.appended(log, len(entry))
            pipeline.xadd(self._log_key(log), {_FRAMES: entry}, maxlen=most, approximate=True)
        for log in {log for log, _ in entries}:
            pipeline.expire(self._log_key(log), _LOG_SECONDS)
        return len(frames) + len(entries)

    def _take_entries(self) -> list[tuple[str, bytes]]:
        taken: list[tuple[str, bytes]] = []
        size = 0
        while self._entries and len(taken) < _BATCH_ENTRIES and size < _BATCH_BYTES:
            taken.append(self._entries.popleft())
            size += len(taken[-1][1])
        self._entries_bytes -= size
        return taken

    # What comes in

    async def _read(self, client: Client, receiver: Receiver) -> None:
        """Reads frames, and the logs that are followed: one that is added meanwhile, within a second."""
        while True:
            streams: dict[Any, Any] = {self._frames_key: self._at, **self._logs}
            asked = client.xread(streams, count=_READ_COUNT, block=int(_BLOCK_SECONDS * 1000))
            found = await _in_time(asked, _BLOCK_SECONDS + _ANSWER_SECONDS)
            turn_ends = monotonic() + _TURN_SECONDS
            for key, entries in found or ():
                for at, fields in entries:
                    self._take_in(key.decode(), at, fields[_FRAMES], receiver)
                    if monotonic() > turn_ends:
                        await asyncio.sleep(0)
                        turn_ends = monotonic() + _TURN_SECONDS
            await asyncio.sleep(_GAP_SECONDS)

    def _take_in(self, key: str, at: bytes, data: bytes, receiver: Receiver) -> None:
        if key == self._frames_key:
            self._at = at
            with suppress(msgspec.DecodeError):
                for frame in _decode(data):
                    self._received += 1
                    receiver.received(frame)
        elif key in self._logs:
            self._logs[key] = at
            self._received += 1
            receiver.appended(self._names[key], data)


async def _in_time(answer: Coroutine[Any, Any, _T], seconds: float) -> _T:
    """Raises TimeoutError without an answer. When this process was held up itself, there is time left to read it."""
    task = asyncio.ensure_future(answer)
    try:
        for _ in range(2):
            if (await asyncio.wait({task}, timeout=seconds / 2))[0]:
                return task.result()
        raise TimeoutError
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _last_id(client: Client, key: str) -> bytes:
    last = await client.xrevrange(key, count=1)
    return last[0][0] if last else b"0-0"


def _order(at: bytes) -> tuple[int, int]:
    milliseconds, _, number = at.partition(b"-")
    return int(milliseconds), int(number)


def _take(waiting: deque[Any], count: int) -> list[Any]:
    return [waiting.popleft() for _ in range(min(count, len(waiting)))]


async def _close(client: Client | None) -> None:
    if client is not None:
        with suppress(Exception):
            await _in_time(disconnect(client), _ANSWER_SECONDS)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {_ANSWER_SECONDS:g} s"
    text = str(error) or type(error).__name__
    if isinstance(error, OutOfMemoryError):
        return f"it is full: raise its maxmemory ({text})"
    return text
