"""Plays a recording as its engines did: a publisher, with a replay socket, for every stream in it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AsyncExitStack
from types import TracebackType
from typing import NamedTuple

from service.contract.endpoints import Endpoint
from service.events.recording import Recorded
from service.events.wire import WireError, read_batch
from service.simulation.publisher import Publisher


class StreamKey(NamedTuple):
    """Which publisher a recorded message came from: each data-parallel rank has one."""

    topic: bytes
    rank: int


def stream_key(message: Recorded) -> StreamKey:
    """Tells messages of several publishers apart; one that cannot be read counts for rank 0."""
    try:
        return StreamKey(message.topic, read_batch(message.payload).rank)
    except WireError:
        return StreamKey(message.topic, 0)


class Playback:
    """The publishers of a recording, on loopback ports of the system's choice. An asynchronous context manager."""

    def __init__(self, messages: Iterable[Recorded], *, replay: bool = True) -> None:
        self.messages = list(messages)
        self._replay = "tcp://127.0.0.1:*" if replay else None
        self._stack = AsyncExitStack()
        self.publishers: dict[StreamKey, Publisher] = {}

    async def __aenter__(self) -> Playback:
        for key in dict.fromkeys(map(stream_key, self.messages)):
            publisher = Publisher(replay=self._replay, topic=key.topic.decode())
            self.publishers[key] = await self._stack.enter_async_context(publisher)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """What a subscriber's ZMQ_ENDPOINT lists to hear them all."""
        return tuple(
            Endpoint(publisher.address, replay=publisher.replay if self._replay else None)
            for publisher in self.publishers.values()
        )

    async def play(self) -> None:
        """Waits for a subscriber of each stream, then publishes everything at once."""
        for publisher in self.publishers.values():
            await publisher.subscribed()
        for message in self.messages:
            self.publishers[stream_key(message)].publish(message.payload, sequence=message.sequence)
