"""The stream of one rank as a record, in which a snapshot holds it."""

from __future__ import annotations

import msgspec

from service.events.sequencer import SequencerRecord
from service.index.base import Rank


class StreamRecord(msgspec.Struct, array_like=True, tag=True, gc=False):
    """A rank, where its batches came from, and which of them are in its blocks. Times are Unix seconds."""

    pod: str
    model: str
    number: int
    endpoint: str
    """Address of the endpoint that spoke for the rank."""
    topic: bytes
    peer: str | None
    last_event_at: float | None
    lost: str | None
    """Why events are missing that the sink could not apply; None if none are."""
    order: SequencerRecord

    @property
    def rank(self) -> Rank:
        return Rank(self.pod, self.model, self.number)
