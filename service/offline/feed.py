"""Applies a recording to an index, as if each message came through a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from service.contract.endpoints import Endpoint
from service.events.intake import Intake
from service.events.recording import Recorded, recorded_pod
from service.events.statistics import EventStatistics
from service.events.stream import Arrival, Stream, arrival
from service.events.topic import read_topic
from service.events.wire import WireError
from service.index.base import Index, Rank

_SWEEP_BLOCKS = 4096


class Decoded(NamedTuple):
    """A decoded message. `name` is the recorded name of its rank: `POD` or `POD#dpN`.

    If it cannot be decoded, `rank` and `arrival` are None and `reason` has the error.
    """

    name: str
    sequence: int
    rank: Rank | None = None
    arrival: Arrival | None = None
    reason: str = ""


class Feed:
    """Applies recorded messages to an index, each stream in its own order.

    `model` is the model of messages whose topic has none. Gaps stay: a recording has no replay socket. `on_time` gets
    the time of each message (Unix seconds) before it is applied.
    """

    def __init__(self, index: Index, model: str, on_time: Callable[[float], None] | None = None) -> None:
        self.statistics = EventStatistics()
        self._index = index
        self._model = model
        self._on_time = on_time
        self._intake = Intake(index, self.statistics, lambda stream: None)
        self._last: dict[str, int] = {}
        self._ranks: dict[str, Rank] = {}

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._intake)

    @property
    def last_sequences(self) -> Mapping[str, int]:
        """Recorded name of a rank → sequence number of its last applied message."""
        return self._last

    def rank(self, name: str) -> Rank | None:
        """The rank with this recorded name; None before its first message."""
        return self._ranks.get(name)

    def read(self, message: Recorded) -> Decoded:
        """Decodes a message, to be applied later."""
        try:
            arrived = arrival(message.sequence, message.payload)
        except WireError as error:
            return Decoded(message.pod, message.sequence, reason=str(error))
        source = read_topic(message.topic, Endpoint("recording", pod=message.pod.partition("#dp")[0]), self._model)
        rank = Rank(source.pod, source.model, arrived.batch.rank)
        return Decoded(
            recorded_pod(rank._replace(pod=message.pod.partition("#dp")[0])), message.sequence, rank, arrived
        )

    def apply(self, message: Recorded | Decoded) -> None:
        """Applies a message; one that cannot be decoded is counted in `statistics.skipped` by reason."""
        read = message if isinstance(message, Decoded) else self.read(message)
        self.statistics.messages_received += 1
        self._last[read.name] = read.sequence
        if read.rank is None or read.arrival is None:
            self._intake.skip(read.name, read.reason)
            return
        self._ranks[read.name] = read.rank
        if self._on_time is not None and read.arrival.batch.timestamp is not None:
            self._on_time(read.arrival.batch.timestamp)
        self._intake.receive(self._intake.stream(read.name, read.rank, None), read.arrival)
        self._index.sweep(_SWEEP_BLOCKS)
