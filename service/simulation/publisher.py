"""A publisher of KV-cache events in vLLM's protocol: a PUB socket, and a ROUTER that replays a bounded buffer.

Source: ZmqEventPublisher in vllm/distributed/kv_events.py, vLLM 0.33 (before 0.26 replies to a replay had no topic).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from service.contract.endpoints import binds as is_bound
from service.events.resolver import prepare

END = b"\xff" * 8
_NO_ROOM_SECONDS = 0.001


def batch_payload(events: Sequence[dict[str, Any]], rank: int = 0) -> bytes:
    """A batch as vLLM 0.33 packs it: an array of the time, the events as maps, and the rank."""
    return msgspec.msgpack.encode([time.time(), events, rank])


class Publisher:
    """Publishes batches under consecutive sequence numbers. An asynchronous context manager.

    Binds an address with `*` or `::`, or of ipc or inproc, and connects to any other, unless `binds` is given; always
    binds the replay address. `repeats_topic`: whether replies to a replay carry the topic. `high_water` limits the
    batches queued for a subscriber (`push` waits for room); `close` waits `linger` seconds for them.
    """

    def __init__(
        self,
        address: str = "tcp://127.0.0.1:*",
        replay: str | None = "tcp://127.0.0.1:*",
        *,
        topic: str | bytes = "",
        buffered: int = 10_000,
        repeats_topic: bool = True,
        binds: bool | None = None,
        high_water: int = 0,
        linger: float = 1.0,
    ) -> None:
        self.topic = topic.encode() if isinstance(topic, str) else topic
        self.sequence = 0
        self._requested = address, replay
        self._repeats_topic = repeats_topic
        self._binds = is_bound(address) if binds is None else binds
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=buffered)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # An XPUB equals a PUB on the wire, and also reports subscriptions. Both are closed as asynchronous sockets:
        # otherwise the loop keeps watching their descriptors, which get reused.
        waiting = zmq.asyncio.Context(self._context)
        self._readable_pub = waiting.socket(zmq.XPUB)
        self._pub: zmq.Socket[bytes] = zmq.Socket.shadow(self._readable_pub)
        self._pub.sndhwm = high_water
        self._pub.linger = int(linger * 1000)
        if high_water:
            # Otherwise ZeroMQ drops batches silently when the queue is full.
            self._pub.setsockopt(zmq.XPUB_NODROP, 1)
        self._readable_router = waiting.socket(zmq.ROUTER)
        self._router: zmq.Socket[bytes] = zmq.Socket.shadow(self._readable_router)
        self._router.sndhwm = 0
        self._router.linger = 0
        self._subscribed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self.snapshot: Sequence[bytes] | None = None
        """Batches of a snapshot as of the last published batch, as in vLLM's pull request 50134; None gives none."""
        self.requests = 0
        """Number of replay requests."""

    async def __aenter__(self) -> Publisher:
        address, replay = self._requested
        prepare(self._pub, address)
        if self._binds:
            self._pub.bind(address)
        else:
            self._pub.connect(address)
        if replay is not None:
            prepare(self._router, replay)
            self._router.bind(replay)
            self._tasks.append(asyncio.create_task(self._serve_replays()))
        self._tasks.append(asyncio.create_task(self._watch_subscriptions()))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._pub.linger = 0
        await self.close()

    async def close(self) -> None:
        """Stops after all queued batches are sent, or after `linger` seconds."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._readable_pub.close()
        self._readable_router.close()
        await asyncio.to_thread(self._context.term)

    @property
    def address(self) -> str:
        """The address that a subscriber connects to."""
        return self._pub.getsockopt_string(zmq.LAST_ENDPOINT)

    @property
    def replay(self) -> str:
        return self._router.getsockopt_string(zmq.LAST_ENDPOINT)

    async def subscribed(self) -> None:
        """Waits for the first subscriber; batches published before it are lost."""
        await self._subscribed.wait()

    def publish(self, payload: bytes, *, sequence: int | None = None, lost: bool = False) -> int:
        """Publishes a batch and gives its sequence number: the next one, or `sequence`.

        With `lost`, the batch is buffered for replays but not sent.
        """
        number = self.sequence if sequence is None else sequence
        if not lost:
            self._pub.send_multipart((self.topic, number.to_bytes(8, "big"), payload), zmq.NOBLOCK)
        self._buffer.append((number, payload))
        self.sequence = number + 1
        return number

    async def push(self, payload: bytes, *, sequence: int) -> None:
        """Publishes a batch once every subscriber's queue has room."""
        while True:
            try:
                self.publish(payload, sequence=sequence)
            except zmq.Again:
                await asyncio.sleep(_NO_ROOM_SECONDS)
            else:
                return

    def forget(self) -> None:
        """Empties the replay buffer, as a restart of the engine does."""
        self._buffer.clear()

    def publish_frames(self, frames: Sequence[bytes]) -> None:
        """Sends frames unchanged, even if they violate the protocol."""
        self._pub.send_multipart(frames)

    async def _watch_subscriptions(self) -> None:
        while True:
            await self._readable_pub.poll()
            if self._pub.recv(zmq.NOBLOCK)[:1] == b"\x01":
                self._subscribed.set()

    async def _serve_replays(self) -> None:
        while True:
            await self._readable_router.poll()
            frames = self._router.recv_multipart(zmq.NOBLOCK)
            if len(frames) != 3:
                continue
            self.requests += 1
            identity, _, start = frames
            if start == b"snapshot" and self.snapshot is not None:
                for payload in self.snapshot:
                    self._reply(identity, self.topic, self.sequence.to_bytes(8, "big"), payload)
                self._reply(identity, b"", END, b"")
                continue
            for number, payload in self._buffer:
                if number >= int.from_bytes(start, "big"):
                    self._reply(identity, self.topic, number.to_bytes(8, "big"), payload)
            self._reply(identity, b"", END, b"")

    def _reply(self, identity: bytes, topic: bytes, sequence: bytes, payload: bytes) -> None:
        shape = (topic, sequence, payload) if self._repeats_topic else (sequence, payload)
        self._router.send_multipart((identity, b"", *shape))
