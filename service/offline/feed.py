"""Applies a recording to an index as if the messages came from sockets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from service.contract.endpoints import Endpoint
from service.events.arrival import Arrival, read_arrival
from service.events.index_sink import IndexSink, count_skipped
from service.events.rate_limited_log import RateLimitedLog
from service.events.recording import Recorded, recorded_pod
from service.events.sequencer import Sequencer
from service.events.statistics import EventStatistics
from service.events.topic import read_topic
from service.events.wire import WireError
from service.index.base import Index, Rank

logger = logging.getLogger(__name__)
_SWEEP_BLOCKS = 4096


class Decoded(NamedTuple):
    """A decoded message. `name` is the recorded name of its rank: `POD` or `POD#dpN`.

    If it cannot be decoded, `rank` and `arrival` are None and `reason` is the error.
    """

    name: str
    sequence: int
    rank: Rank | None = None
    arrival: Arrival | None = None
    reason: str = ""


class Feed:
    """Applies recorded messages to an index, each stream in its own order.

    `model` is the model of messages whose topic names none. Gaps remain: a recording has no replay socket. `on_time`
    receives the time of each message (Unix seconds) before it is applied.
    """

    def __init__(self, index: Index, model: str, on_time: Callable[[float], None] | None = None) -> None:
        self.statistics = EventStatistics()
        self._index = index
        self._model = model
        self._on_time = on_time
        self._log = RateLimitedLog(logger)
        self._sequencers: dict[tuple[str, Rank], Sequencer] = {}
        self._last: dict[str, int] = {}
        self._ranks: dict[str, Rank] = {}

    def inexact(self) -> Mapping[Rank, str]:
        """The ranks that may differ from the engine, with the reason."""
        reasons = {rank: self.inexact_reason(rank) for _, rank in self._sequencers}
        return {rank: reason for rank, reason in reasons.items() if reason}

    def inexact_reason(self, rank: Rank) -> str | None:
        """Why the blocks of a rank may differ from the engine's; None if they are exact."""
        losses = (sequencer.loss for (_, of), sequencer in self._sequencers.items() if of == rank)
        return next(filter(None, losses), None) or self._index.inexact_reason(rank)

    @property
    def last_sequences(self) -> Mapping[str, int]:
        """Recorded name of a rank → sequence number of its last applied message."""
        return self._last

    def rank(self, name: str) -> Rank | None:
        """The rank with this recorded name; None before its first message."""
        return self._ranks.get(name)

    def read(self, message: Recorded) -> Decoded:
        """Decodes a message without applying it."""
        try:
            arrival = read_arrival(message.sequence, message.payload)
        except WireError as error:
            return Decoded(message.pod, message.sequence, reason=str(error))
        source = read_topic(message.topic, Endpoint("recording", pod=message.pod.partition("#dp")[0]), self._model)
        rank = Rank(source.pod, source.model, arrival.batch.rank)
        return Decoded(
            recorded_pod(rank._replace(pod=message.pod.partition("#dp")[0])), message.sequence, rank, arrival
        )

    def apply(self, message: Recorded | Decoded) -> None:
        """Applies a message; one that cannot be decoded is counted in `statistics.skipped` by reason."""
        read = message if isinstance(message, Decoded) else self.read(message)
        self.statistics.messages_received += 1
        self._last[read.name] = read.sequence
        if read.rank is None or read.arrival is None:
            count_skipped(self.statistics, self._log, read.name, read.reason)
            return
        self._ranks[read.name] = read.rank
        if self._on_time is not None and read.arrival.batch.timestamp is not None:
            self._on_time(read.arrival.batch.timestamp)
        self._sequencer(read.name, read.rank).receive(read.arrival)
        self._index.sweep(_SWEEP_BLOCKS)

    def _sequencer(self, name: str, rank: Rank) -> Sequencer:
        sequencer = self._sequencers.get((name, rank))
        if sequencer is None:
            sink = IndexSink(rank, self._index, self.statistics, self._log)
            self._sequencers[name, rank] = sequencer = Sequencer(sink)
        return sequencer
