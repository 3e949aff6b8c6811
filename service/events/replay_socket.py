"""Requests missed batches from engines' replay sockets, in one task per stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, suppress
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple

import zmq
import zmq.asyncio

from service.events.access import connect_with
from service.events.arrival import Arrival
from service.events.curve import KeyPair
from service.events.resolver import Resolver, prepare
from service.events.sequencer import Sequencer
from service.events.subscription import MAX_MESSAGE_BYTES

logger = logging.getLogger(__name__)
END = b"\xff" * 8
ANSWER_SECONDS = 2.0
_AT_ONCE = 16
_SLICE_SECONDS = 0.005
_SLICE = 128
_MAX_REPEATED = 10_000


class ReplayError(Exception):
    """The replay socket gave no usable answer; the text says why."""


class Replayed(NamedTuple):
    """One replayed batch; `topic` is None if the engine does not repeat it (vLLM before 0.26)."""

    topic: bytes | None
    sequence: int
    payload: bytes


class Source(NamedTuple):
    """A replay socket, and the file with its public key if it uses CURVE."""

    address: str
    curve: str | None


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

    def start(
        self, address: str, sequencer: Sequencer, read: Callable[[Replayed], Arrival], curve: str | None = None
    ) -> None:
        """Asks until the sequencer wants nothing more. `read` raises ReplayError for a reply of another stream.

        `curve` is the file with the engine's public key.
        """
        if sequencer not in self._active:
            self._active.add(sequencer)
            self._run(self._answer(Source(address, curve), sequencer, read), address)

    def introduce(self, address: str, heard: Callable[[Replayed], None], curve: str | None = None) -> None:
        """Asks a silent engine for its first batch; the topic identifies the pod."""
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
        with suppress(ReplayError):
            asked = self._ask(await self._resolve(source.address), source, 0)
            async with self._turns, aclosing(asked) as replies:
                async for replayed in replies:
                    heard(replayed)
                    break

    async def _answer(self, source: Source, sequencer: Sequencer, read: Callable[[Replayed], Arrival]) -> None:
        try:
            while (start := sequencer.wanted) is not None:
                try:
                    await self._answer_one(source, start, sequencer, read)
                except ReplayError as error:
                    sequencer.replay_failed(str(error))
                except Exception as error:
                    logger.debug("The replay of %s failed", source.address, exc_info=True)
                    sequencer.replay_failed(f"internal error: {error!r}", final=True)
        except Exception:
            logger.exception("What waited for the replay of %s could not be applied", source.address)
        finally:
            self._active.discard(sequencer)

    async def _answer_one(
        self, source: Source, start: int, sequencer: Sequencer, read: Callable[[Replayed], Arrival]
    ) -> None:
        asked = self._ask(await self._resolve(source.address), source, start)
        slice_ends = monotonic() + _SLICE_SECONDS
        async with self._turns, aclosing(asked) as replies:
            async for replayed in replies:
                if not sequencer.replayed(read(replayed)):
                    return
                if monotonic() > slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = monotonic() + _SLICE_SECONDS
        sequencer.replay_ended()

    def _ask(self, literal: str, source: Source, start: int) -> AsyncGenerator[Replayed]:
        return ask(self._context, literal, start, self._answer_seconds, (self._own, source.curve))

    async def _resolve(self, address: str) -> str:
        try:
            async with asyncio.timeout(self._answer_seconds):
                return (await self._resolver.resolve(address))[0]
        except (OSError, IndexError) as error:
            raise ReplayError(str(error) or f"{address} cannot be resolved") from error


async def ask(
    context: zmq.Context[zmq.Socket[bytes]],
    address: str,
    start: int,
    answer_seconds: float = ANSWER_SECONDS,
    keys: tuple[KeyPair, str | None] | None = None,
) -> AsyncGenerator[Replayed]:
    """Yields the batches that the engine still has, in its order, beginning with sequence number `start`.

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
            socket.send_multipart((b"", start.to_bytes(8, "big")), zmq.NOBLOCK)
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
                replayed = _read(frames, address)
                if replayed is None:
                    return
                repeated += replayed.sequence <= last
                if repeated > _MAX_REPEATED:
                    raise ReplayError(f"{address} repeats itself without end")
                last = replayed.sequence
                yield replayed


def _read(frames: list[bytes], address: str) -> Replayed | None:
    """The batch in a reply; None at the end of the replay."""
    topic: bytes | None = None
    match frames:
        case [b"", sequence, payload]:
            pass
        case [b"", topic, sequence, payload]:
            pass
        case _:
            raise ReplayError(f"{address} answers in {len(frames)} frames")
    if sequence == END:
        return None
    if len(sequence) != 8:
        raise ReplayError(f"{address} answers with a sequence number of {len(sequence)} bytes")
    return Replayed(topic, int.from_bytes(sequence, "big"), payload)
