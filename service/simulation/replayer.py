"""Publishes a recording as its engines did, out of the file, whatever its size."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from service.contract.endpoints import Endpoint
from service.events.recording import Recorded
from service.events.wire import WireError, read_batch
from service.simulation.playback import StreamKey, stream_key
from service.simulation.publisher import Publisher

_HIGH_WATER = 1000
_LINGER = 30.0
_PORT = re.compile(r"(?P<address>tcp://.*:)(?P<port>\d+)")


class NoRoom(Exception):
    """An address cannot be given to several streams; the text says why."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where to publish: vLLM's rule says whether an address is bound or connected to, `binds` says otherwise.

    The second stream of a recording gets the next port of each bound address, as vLLM's ranks do.
    """

    address: str
    replay: str | None
    binds: bool | None = None

    def of_stream(self, number: int) -> Target:
        """The addresses of the stream of that number, from 0. Raises NoRoom."""
        bound = Endpoint(self.address).binds if self.binds is None else self.binds
        replay = None if self.replay is None else _moved(self.replay, number)
        return Target(_moved(self.address, number) if bound else self.address, replay, bound)


def find_streams(messages: Iterable[Recorded]) -> dict[StreamKey, str]:
    """Every publisher of a recording, with what it calls the pod."""
    streams: dict[StreamKey, str] = {}
    for message in messages:
        streams.setdefault(stream_key(message), message.pod)
    return streams


class Replayer:
    """One publisher per stream. An asynchronous context manager; entering raises NoRoom and zmq.ZMQError."""

    def __init__(self, streams: Mapping[StreamKey, str], target: Target, *, buffered: int = 10_000) -> None:
        self._streams = streams
        self._stack = AsyncExitStack()
        self._publishers: dict[StreamKey, Publisher] = {}
        for number, key in enumerate(streams):
            own = target.of_stream(number)
            self._publishers[key] = Publisher(
                own.address,
                own.replay,
                topic=key.topic.decode("utf-8", "surrogateescape"),
                buffered=buffered,
                binds=own.binds,
                high_water=_HIGH_WATER,
                linger=_LINGER,
            )
        self._replays = target.replay is not None

    async def __aenter__(self) -> Self:
        for publisher in self._publishers.values():
            await self._stack.enter_async_context(publisher)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    @property
    def endpoints(self) -> list[Endpoint]:
        """What a subscriber's ZMQ_ENDPOINT lists to hear the streams, if they are bound."""
        return [
            Endpoint(
                _seen_from_here(publisher.address),
                pod=None if key.topic else self._streams[key].partition("#dp")[0],
                replay=_seen_from_here(publisher.replay) if self._replays else None,
            )
            for key, publisher in self._publishers.items()
        ]

    async def subscribed(self) -> None:
        """Waits until every stream has a subscriber."""
        await asyncio.gather(*(publisher.subscribed() for publisher in self._publishers.values()))

    async def play(self, messages: Iterable[Recorded], speed: float | None) -> AsyncIterator[Recorded]:
        """Publishes, and gives each message when it has left; at `speed` times the original pace, or None: at once."""
        first: float | None = None
        begun = time.monotonic()
        for message in messages:
            if speed is not None and (moment := _timestamp(message)) is not None:
                first = moment if first is None else first
                early = begun + (moment - first) / speed - time.monotonic()
                if early > 0:
                    await asyncio.sleep(early)
            publisher = self._publishers[stream_key(message)]
            if message.sequence == 0 and publisher.sequence:
                publisher.forget()
            await publisher.push(message.payload, sequence=message.sequence)
            yield message


def _timestamp(message: Recorded) -> float | None:
    try:
        return read_batch(message.payload).timestamp
    except WireError:
        return None


def _moved(address: str, number: int) -> str:
    if number == 0 or address.endswith(":*"):
        return address
    if address.startswith("ipc://"):
        return f"{address}.{number}"
    match = _PORT.fullmatch(address)
    if match is None or int(match["port"]) + number > 65535:
        raise NoRoom(f"the recording has more streams than {address} can be moved for")
    return f"{match['address']}{int(match['port']) + number}"


def _seen_from_here(address: str) -> str:
    return re.sub(r"tcp://(0\.0\.0\.0|\[::\]|\*):", "tcp://127.0.0.1:", address)
