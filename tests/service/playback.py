"""Recordings played to tests over sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from service.contract.endpoints import Endpoint
from service.events.recording import Recorded
from service.simulation.playback import Addresses, Playback, StreamKey, find_streams, stream_key
from service.simulation.publisher import Publisher

_ANY_PORT = "tcp://127.0.0.1:*"


class Played:
    """A recording whose publishers listen on free ports of 127.0.0.1."""

    def __init__(self, messages: list[Recorded], playback: Playback) -> None:
        self.messages = messages
        self._playback = playback

    @property
    def publishers(self) -> dict[StreamKey, Publisher]:
        return self._playback.publishers

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(self._playback.endpoints)

    def last_messages(self) -> dict[StreamKey, Recorded]:
        return {stream_key(message): message for message in self.messages}

    async def play(self) -> None:
        """Waits for a subscriber of each stream, then publishes all messages."""
        await self._playback.subscribed()
        async for _ in self._playback.play(self.messages, speed=None):
            pass


@asynccontextmanager
async def playing(messages: Iterable[Recorded], *, replay: bool = True) -> AsyncIterator[Played]:
    """Starts the publishers of a recording, with or without replay sockets."""
    recorded = list(messages)
    addresses = Addresses(_ANY_PORT, _ANY_PORT if replay else None)
    async with Playback(find_streams(recorded), addresses) as playback:
        yield Played(recorded, playback)
