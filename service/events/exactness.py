"""Decides whether a rank is exact: whether its answers are known to equal its engine's."""

from __future__ import annotations

from service.events.index_sink import IndexSink
from service.events.streams import Stream


def inexact_reason(stream: Stream[IndexSink], index_reason: str | None, *, claimed: bool) -> str | None:
    """The first reason why a rank is inexact; None if it is exact.

    Lost batches come first, then what the index cannot know (`index_reason`, inexact_reasons.py), then whether others
    speak for the rank (`claimed`), the state of the stream (stream_states.py), and what the sink left out.
    """
    sequencer = stream.sequencer
    return (
        sequencer.loss
        or index_reason
        or ("several endpoints speak for this rank" if claimed else None)
        or sequencer.inexact_reason
        or stream.sink.inexact_reason
    )
