"""From a recording to an index, as if every message had come through a socket."""

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

_SWEPT_AT_ONCE = 4096


class Read(NamedTuple):
    """A message that was read and not yet applied. `name` is what a recording calls its rank: `POD`, or `POD#dpN`.

    `rank` and `arrival` are None for one that cannot be read, `reason` says why.
    """

    name: str
    sequence: int
    rank: Rank | None = None
    arrival: Arrival | None = None
    reason: str = ""


class Feed:
    """Applies recorded messages to an index, each stream in its own order.

    `model` is the model of messages whose topic names none. What is missing stays missing: a recording has no replay
    socket. `moved` is told the time of each message (Unix seconds) before it is applied.
    """

    def __init__(self, index: Index, model: str, moved: Callable[[float], None] | None = None) -> None:
        self.statistics = EventStatistics()
        self._index = index
        self._model = model
        self._moved = moved
        self._intake = Intake(index, self.statistics, lambda stream: None)
        self._last: dict[str, int] = {}
        self._ranks: dict[str, Rank] = {}

    def __iter__(self) -> Iterator[Stream]:
        return iter(self._intake)

    @property
    def last_sequences(self) -> Mapping[str, int]:
        """Of each rank, by its name in the recording, the number of the last message applied."""
        return self._last

    def rank(self, name: str) -> Rank | None:
        """Whom the recording calls that; None before its first message."""
        return self._ranks.get(name)

    def read(self, message: Recorded) -> Read:
        """Reads a message, to be applied later."""
        try:
            arrived = arrival(message.sequence, message.payload)
        except WireError as error:
            return Read(message.pod, message.sequence, reason=str(error))
        source = read_topic(message.topic, Endpoint("recording", pod=message.pod.partition("#dp")[0]), self._model)
        rank = Rank(source.pod, source.model, arrived.batch.rank)
        return Read(recorded_pod(rank._replace(pod=message.pod.partition("#dp")[0])), message.sequence, rank, arrived)

    def apply(self, message: Recorded | Read) -> None:
        """Applies a message; one that cannot be read is counted in `statistics.skipped`, by reason."""
        read = message if isinstance(message, Read) else self.read(message)
        self.statistics.messages_received += 1
        self._last[read.name] = read.sequence
        if read.rank is None or read.arrival is None:
            self._intake.skip(read.name, read.reason)
            return
        self._ranks[read.name] = read.rank
        if self._moved is not None and read.arrival.batch.timestamp is not None:
            self._moved(read.arrival.batch.timestamp)
        self._intake.receive(self._intake.stream(read.name, read.rank, None), read.arrival)
        self._index.sweep(_SWEPT_AT_ONCE)
