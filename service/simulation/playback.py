"""Plays a recording through one publisher with a replay socket per stream; reads messages as it publishes them."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

from service.contract.endpoints import Endpoint
from service.events.recording import Recorded
from service.events.wire import WireError, read_batch
from service.simulation.publisher import Publisher

_HIGH_WATER = 1000
_LINGER = 30.0
_PORT = re.compile(r"(?P<address>tcp://.*:)(?P<port>\d+)")


class TooManyStreams(Exception):
    """A stream has no free port number."""


class StreamKey(NamedTuple):
    """The publisher of a recorded message: each data-parallel rank has its own."""

    topic: bytes
    rank: int


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses of the first stream; each further stream gets the next port of a bound address, as vLLM's ranks do.

    `binds` overrides vLLM's rule for binding or connecting.
    """

    address: str
    replay: str | None
    binds: bool | None = None

    def of_stream(self, number: int) -> Addresses:
        """The addresses of stream `number`, from 0. Raises TooManyStreams."""
        bound = Endpoint(self.address).binds if self.binds is None else self.binds
        replay = None if self.replay is None else _next_port(self.replay, number)
        return Addresses(_next_port(self.address, number) if bound else self.address, replay, bound)


def stream_key(message: Recorded) -> StreamKey:
    """The publisher of a message; rank 0 if its payload cannot be decoded."""
    try:
        return StreamKey(message.topic, read_batch(message.payload).rank)
    except WireError:
        return StreamKey(message.topic, 0)


def find_streams(messages: Iterable[Recorded]) -> dict[StreamKey, str]:
    """The streams of a recording, each with the recorded name of its pod."""
    streams: dict[StreamKey, str] = {}
    for message in messages:
        streams.setdefault(stream_key(message), message.pod)
    return streams


class Playback:
    """The publishers of a recording's streams. An asynchronous context manager; entering raises zmq.ZMQError."""

    def __init__(self, streams: Mapping[StreamKey, str], addresses: Addresses, *, buffered: int = 10_000) -> None:
        """Raises TooManyStreams."""
        self._streams = streams
        self._stack = AsyncExitStack()
        self.publishers: dict[StreamKey, Publisher] = {}
        for number, key in enumerate(streams):
            own = addresses.of_stream(number)
            self.publishers[key] = Publisher(
                own.address,
                own.replay,
                topic=key.topic,
                buffered=buffered,
                binds=own.binds,
                high_water=_HIGH_WATER,
                linger=_LINGER,
            )
        self._has_replay = addresses.replay is not None

    async def __aenter__(self) -> Self:
        for publisher in self.publishers.values():
            await self._stack.enter_async_context(publisher)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def endpoints(self) -> list[Endpoint]:
        """The endpoints for ZMQ_ENDPOINT of a subscriber on this machine, if the streams are bound."""
        return [
            Endpoint(
                _connectable(publisher.address),
                pod=None if key.topic else self._streams[key].partition("#dp")[0],
                replay=_connectable(publisher.replay) if self._has_replay else None,
            )
            for key, publisher in self.publishers.items()
        ]

    async def subscribed(self) -> None:
        """Waits until every stream has a subscriber."""
        await asyncio.gather(*(publisher.subscribed() for publisher in self.publishers.values()))

    async def play(self, messages: Iterable[Recorded], speed: float | None) -> AsyncIterator[Recorded]:
        """Publishes messages at `speed` times the recorded rate (None: at once) and yields each one sent."""
        first: float | None = None
        begun = time.monotonic()
        for message in messages:
            if speed is not None and (moment := _timestamp(message)) is not None:
                first = moment if first is None else first
                early = begun + (moment - first) / speed - time.monotonic()
                if early > 0:
                    await asyncio.sleep(early)
            publisher = self.publishers[stream_key(message)]
            if message.sequence == 0 and publisher.sequence:
                publisher.forget()
            await publisher.push(message.payload, sequence=message.sequence)
            yield message


def _timestamp(message: Recorded) -> float | None:
    try:
        return read_batch(message.payload).timestamp
    except WireError:
        return None


def _next_port(address: str, number: int) -> str:
    if number == 0 or address.endswith(":*"):
        return address
    if address.startswith("ipc://"):
        return f"{address}.{number}"
    match = _PORT.fullmatch(address)
    if match is None or int(match["port"]) + number > 65535:
        raise TooManyStreams(f"the recording has more streams than there are ports above {address}")
    return f"{match['address']}{int(match['port']) + number}"


def _connectable(address: str) -> str:
    return re.sub(r"tcp://(0\.0\.0\.0|\[::\]|\*):", "tcp://127.0.0.1:", address)
