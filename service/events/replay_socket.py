"""Requests missed batches and snapshots from engines, in one task per stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import zmq
import zmq.asyncio

from service.events.access import connect_with
from service.events.arrival import Arrival
from service.events.curve import KeyPair
from service.events.replay_frames import (
    Exchange,
    Replay,
    Replayed,
    ReplayError,
    SnapshotAtOwnSocket,
    SnapshotAtReplaySocket,
)
from service.events.resolver import Resolver, prepare
from service.events.sequencer import SNAPSHOT, Sequencer
from service.events.subscription import MAX_MESSAGE_BYTES

logger = logging.getLogger(__name__)
ANSWER_SECONDS = 2.0
UNKNOWN_HOST = "its host is not known; hosts= may allow its name"
_AT_ONCE = 16
_SLICE_SECONDS = 0.005
_SLICE = 128
_MAX_REPEATED = 10_000
_MAX_SNAPSHOT_BYTES = 1024**3


class Source(NamedTuple):
    """The replay and snapshot sockets of one stream, and the file with their public key if they use CURVE."""

    replay: str | None
    """Address of the replay socket."""
    curve: str | None
    snapshot: str | None = None
    """Address of the socket that gives snapshots: the replay socket, or one of its own."""


class ReplayClient:
    """Requests the batches that sequencers want, a few at a time, in a ZeroMQ context of its own.

    `answer_seconds` is the timeout of a reply.
    """

    def __init__(self, resolver: Resolver, answer_seconds: float = ANSWER_SECONDS, own: KeyPair | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._resolver = resolver
        self._own = own or KeyPair.fresh()
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._answer_seconds = answer_seconds
        self._active: set[Sequencer] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.introducing = 0
        """The number of silent engines that are being asked for their first batch."""

    def start(self, source: Source, sequencer: Sequencer, read: Callable[[Replayed], Arrival]) -> None:
        """Asks until the sequencer wants nothing more. `read` raises ReplayError for a reply of another stream."""
        if sequencer not in self._active:
            self._active.add(sequencer)
            self._run(self._answer(source, sequencer, read), source.replay or str(source.snapshot))

    def introduce(self, address: str, heard: Callable[[Replayed], None], curve: str | None = None) -> None:
        """Asks a silent engine for its first batch; the topic identifies the pod."""
        self.introducing += 1
        self._run(self._introduce(Source(address, curve), heard), address)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._context.destroy(linger=0)

    def _run(self, work: Coroutine[Any, Any, None], address: str) -> None:
        task = asyncio.create_task(work, name=f"replay of {address}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _introduce(self, source: Source, heard: Callable[[Replayed], None]) -> None:
        try:
            asked = await self._ask(source, Replay(0))
            async with self._turns, aclosing(asked) as replies:
                async for replayed in replies:
                    heard(replayed)
                    break
        except ReplayError as error:
            logger.debug("%s: %s", source.replay, error)
        finally:
            self.introducing -= 1

    async def _answer(self, source: Source, sequencer: Sequencer, read: Callable[[Replayed], Arrival]) -> None:
        try:
            while (wanted := sequencer.wanted) is not None:
                try:
                    if wanted is SNAPSHOT:
                        await self._restore(source, sequencer, read)
                    else:
                        await self._answer_one(source, wanted, sequencer, read)
                except ReplayError as error:
                    sequencer.replay_failed(str(error))
                except Exception as error:
                    logger.debug("The replay of %s failed", source.replay, exc_info=True)
                    sequencer.replay_failed(f"internal error: {error!r}", final=True)
        except Exception:
            logger.exception("What waited for the replay of %s could not be applied", source.replay)
        finally:
            self._active.discard(sequencer)

    async def _answer_one(
        self, source: Source, start: int, sequencer: Sequencer, read: Callable[[Replayed], Arrival]
    ) -> None:
        asked = await self._ask(source, Replay(start))
        turn = _Turn()
        async with self._turns, aclosing(asked) as replies:
            async for replayed in replies:
                if not sequencer.replayed(read(replayed)):
                    return
                await turn.pause()
        sequencer.replay_ended()

    async def _restore(self, source: Source, sequencer: Sequencer, read: Callable[[Replayed], Arrival]) -> None:
        """Asks for a snapshot, and applies it once it is whole and its parts fit together."""
        exchange = SnapshotAtReplaySocket() if source.snapshot == source.replay else SnapshotAtOwnSocket()
        parts: list[Arrival] = []
        size = 0
        turn = _Turn()
        asked = await self._ask(source, exchange)
        async with self._turns, aclosing(asked) as replies:
            async for part in replies:
                size += len(part.payload)
                if size > _MAX_SNAPSHOT_BYTES:
                    raise ReplayError(f"{source.snapshot} gives a snapshot of more than {_MAX_SNAPSHOT_BYTES} bytes")
                parts.append(read(part))
                await turn.pause()
        applied: Iterator[None] = sequencer.restored(parts)
        try:
            for _ in applied:
                await turn.pause()
        except ValueError as error:
            raise ReplayError(f"{source.snapshot} {error}") from error

    async def _ask(self, source: Source, exchange: Exchange) -> AsyncGenerator[Replayed]:
        address = source.replay if isinstance(exchange, Replay) else source.snapshot
        if address is None:
            raise ReplayError(UNKNOWN_HOST)
        keys = self._own, source.curve
        return ask(self._context, await self._resolve(address), exchange, self._answer_seconds, keys)

    async def _resolve(self, address: str) -> str:
        try:
            async with asyncio.timeout(self._answer_seconds):
                return (await self._resolver.resolve(address))[0]
        except (OSError, IndexError) as error:
            raise ReplayError(str(error) or f"{address} cannot be resolved") from error


class _Turn:
    """Lets the event loop run other tasks every few milliseconds."""

    def __init__(self) -> None:
        self._ends = monotonic() + _SLICE_SECONDS

    async def pause(self) -> None:
        if monotonic() > self._ends:
            await asyncio.sleep(0)
            self._ends = monotonic() + _SLICE_SECONDS


async def ask(
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    exchange: Exchange,
    answer_seconds: float = ANSWER_SECONDS,
    keys: tuple[KeyPair, str | None] | None = None,
) -> AsyncGenerator[Replayed]:
    """Yields the batches of the engine's answer, in its order.

    `keys` are our own key pair and the file with the engine's public key, which is None without CURVE.

    Raises ReplayError when the engine does not answer within `answer_seconds`, gives an invalid answer, or repeats
    itself without end.
    """
    # Closed as an asynchronous socket: otherwise the loop keeps watching its descriptor, and a later connection that
    # reuses the descriptor is never read.
    with zmq.asyncio.Context(context).socket(zmq.DEALER) as readable:
        socket: zmq.Socket[bytes] = zmq.Socket.shadow(readable)
        socket.linger = 0
        socket.rcvhwm = 0
        socket.maxmsgsize = MAX_MESSAGE_BYTES
        try:
            if keys is not None and keys[1] is not None:
                connect_with(socket, keys[0], Path(keys[1]))
            prepare(socket, address)
            socket.connect(address)
            socket.send_multipart((b"", exchange.request), zmq.NOBLOCK)
        except (zmq.ZMQError, OSError, ValueError) as error:
            raise ReplayError(f"cannot ask {address}: {getattr(error, 'strerror', None) or error}") from error
        last, repeated = -1, 0
        while True:
            if not await readable.poll(int(answer_seconds * 1000)):
                raise ReplayError(f"{address} does not answer")
            for _ in range(_SLICE):
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                replayed = exchange.read(frames, address)
                if replayed is None:
                    return
                repeated += replayed.sequence <= last
                if repeated > _MAX_REPEATED:
                    raise ReplayError(f"{address} repeats itself without end")
                last = replayed.sequence
                yield replayed
