"""From batches to the index: puts every stream in order, and keeps account of what its rank's answers are worth."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator
from time import monotonic

from service.events.notices import Notices
from service.events.statistics import EventStatistics
from service.events.stream import Arrival, Stream, Verdict
from service.events.wire import Batch, Cleared
from service.index.base import Index, Rank, Removed, Stored

_log = logging.getLogger(__name__)
_NEXT = Verdict.NEXT  # to find a member of an enumeration takes longer than to compare it


class Intake:
    """All streams there are, and the one way from a batch to the index.

    `ask` is called for a stream whose replay socket is to be asked; the stream is marked `asking` then, and what
    arrives for it and is not next waits until `asked` is called, at most `most_waiting` batches.
    """

    def __init__(
        self, index: Index, statistics: EventStatistics, ask: Callable[[Stream], None], most_waiting: int = 100_000
    ) -> None:
        self.notices = Notices(_log)
        self._most_waiting = most_waiting
        self._index = index
        self._statistics = statistics
        self._ask = ask
        self._streams: dict[tuple[str, Rank], Stream] = {}
        self._of_rank: dict[Rank, int] = {}
        self._hidden: set[Rank] = set()

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._streams.values()))

    def __len__(self) -> int:
        return len(self._streams)

    def has(self, endpoint: str, rank: Rank) -> bool:
        """Whether a rank was heard at an endpoint."""
        return (endpoint, rank) in self._streams

    def stream(self, endpoint: str, rank: Rank, replay: str | None) -> Stream:
        """The stream of a rank at an endpoint, made when it is heard for the first time.

        A rank that is gone elsewhere and is heard here has moved: what it held there is gone.
        """
        stream = self._streams.get((endpoint, rank))
        if stream is None:
            for other in self._others(endpoint, rank):
                if other.lost_at is not None:
                    self.forget(other)
            stream = Stream(rank, endpoint, replay)
            self._streams[endpoint, rank] = stream
            self._of_rank[rank] = self._of_rank.get(rank, 0) + 1
        return stream

    def shared(self, rank: Rank) -> bool:
        """Whether several endpoints claim to speak for one rank, so that neither sequence tells what it holds."""
        return self._of_rank.get(rank, 0) > 1

    def _others(self, endpoint: str, rank: Rank) -> list[Stream]:
        """The streams of a rank at other endpoints."""
        if not self._of_rank.get(rank):
            return []
        return [stream for stream in self if stream.rank == rank and stream.endpoint != endpoint]

    def receive(self, stream: Stream, arrival: Arrival) -> None:
        """Takes a live batch: applies it when it is next, else finds out what is missing."""
        verdict = stream.judge(arrival)
        if stream.asking and (verdict is not _NEXT or stream.waiting):
            self._keep_waiting(stream, arrival)
        elif verdict is _NEXT:
            self.apply(stream, arrival)
            stream.catching_up = False
        else:
            self._receive_out_of_order(stream, arrival, verdict)

    def _receive_out_of_order(self, stream: Stream, arrival: Arrival, verdict: Verdict) -> None:
        match verdict:
            case Verdict.REPEATED:
                self._statistics.batches_repeated += 1
            case Verdict.RESTARTED:
                self.restart(stream, arrival.batch.timestamp)
                self.receive(stream, arrival)
            case Verdict.GAP:
                self._statistics.gaps += 1
                if stream.replay is None:
                    self.lose(stream, arrival.sequence)
                    self.apply(stream, arrival)
                else:
                    self._keep_waiting(stream, arrival)
                    self.ask(stream)

    def _keep_waiting(self, stream: Stream, arrival: Arrival) -> None:
        # One that finds no place shows as a gap when its successor is received.
        if len(stream.waiting) < self._most_waiting:
            stream.waiting.append(arrival)

    def ask(self, stream: Stream) -> None:
        """Has the replay socket asked, unless it is being asked."""
        if stream.replay is not None and not stream.asking:
            stream.asking = True
            self._ask(stream)

    def asked(self, stream: Stream, in_vain: bool) -> None:
        """The replay is over: takes the live batches that came meanwhile.

        What is missing before them is lost when the replay that should have brought it was in vain.
        """
        stream.asking = False
        waiting, stream.waiting = stream.waiting, deque()
        for arrival in () if stream.forgotten else waiting:
            if in_vain and not stream.asking and stream.judge(arrival) is Verdict.GAP:
                self.lose(stream, arrival.sequence)
                self.apply(stream, arrival)
            else:
                self.receive(stream, arrival)
        if stream.again:
            stream.again = False
            self.ask(stream)

    def lose(self, stream: Stream, sequence: int) -> None:
        """Gives up on the batches before `sequence`; until the rank is cleared or rebuilt its answers may be wrong."""
        count = sequence - stream.next
        if stream.next == 0:
            reason = f"joined at batch {sequence}; what came before is unknown"
        else:
            reason = f"batches {stream.next} to {sequence - 1} were lost"
        self._statistics.batches_lost += count
        stream.beyond_replay = False
        self.distrust(stream, reason)

    def distrust(self, stream: Stream, reason: str) -> None:
        """Marks a stream as inexact; the first reason stays."""
        self.notices.say(logging.WARNING, stream.rank, "%s is inexact: %s", _name(stream.rank), reason)
        stream.inexact = stream.inexact or reason

    def lose_track(self, stream: Stream, reason: str) -> None:
        """Marks a stream as inexact; what its engine replays rebuilds it."""
        stream.beyond_replay = False
        self.distrust(stream, reason)
        self.ask(stream)

    def restart(self, stream: Stream, began_at: float | None) -> None:
        """The engine began anew, at that time if it is known: its blocks are gone."""
        self._statistics.restarts += 1
        stream.restarted()
        self.notices.say(logging.WARNING, stream.rank, "%s restarted: its blocks are gone", _name(stream.rank))
        self.rebuild(stream, began_at)

    def rebuild(self, stream: Stream, began_at: float | None) -> None:
        """Empties a rank, to be filled from its first batch on."""
        self._index.clear(stream.rank)
        stream.restart(began_at)

    def apply(self, stream: Stream, arrival: Arrival) -> None:
        """Puts a batch into the index, whatever is missing before it."""
        batch = arrival.batch
        self._apply_events(stream, batch)
        now = stream.advance(arrival)
        if self._hidden:
            self.verified(stream)
        statistics = self._statistics
        statistics.batches_applied += 1
        if batch.timestamp is not None:
            lag = now - batch.timestamp
            statistics.lag_seconds = lag = lag if lag > 0 else 0.0
            statistics.lag.observe(lag)

    def _apply_events(self, stream: Stream, batch: Batch) -> None:
        rank = stream.rank
        for event in batch.events:
            if isinstance(event, Stored):
                self._index.store(rank, event)
            elif isinstance(event, Removed):
                self._index.remove(rank, event)
            elif isinstance(event, Cleared) and self._index.engine_cleared(rank):
                stream.inexact = None
        self._statistics.events_applied += len(batch.events)
        if batch.unread:
            for reason, count in batch.unread.items():
                self.skip(rank, reason, count)
                self.distrust(stream, f"an event could not be read ({reason})")

    def skip(self, subject: object, reason: str, count: int = 1) -> None:
        self._statistics.skipped[reason] += count
        self.notices.say(logging.WARNING, subject, "Skipped %d of %s: %s", count, _name(subject), reason)

    def lost(self, stream: Stream) -> None:
        """The connection is gone, for now. If its rank is heard elsewhere too, it has moved there."""
        if stream.lost_at is None:
            stream.lost_at = monotonic()
        stream.reconnected = True
        heard = [other for other in self._others(stream.endpoint, stream.rank) if other.lost_at is None]
        if heard:
            self.forget(stream)
            for other in heard:
                self.lose_track(other, "another endpoint spoke for this rank, too")

    def found(self, stream: Stream) -> None:
        """The connection is back; whether something was missed, the sequence or the replay socket will show."""
        stream.lost_at = None
        stream.stir()
        stream.again = stream.asking
        self.ask(stream)

    def verified(self, stream: Stream) -> None:
        """The sequence shows that nothing is missing that is not accounted for: the blocks count, if they did not.

        While the connection is lost that says nothing of what may be missed meanwhile.
        """
        stream.reconnected = stream.lost_at is not None
        if self._hidden and stream.lost_at is None and stream.rank in self._hidden:
            self._hidden.remove(stream.rank)
            self._index.unhide(stream.rank)

    def hide(self, stream: Stream) -> None:
        """Takes a rank's blocks out of all matches until its stream is verified."""
        self._hidden.add(stream.rank)
        self._index.hide(stream.rank)

    def forget(self, stream: Stream) -> None:
        """Drops a stream; its rank goes with it when no other endpoint speaks for it."""
        if self._streams.pop((stream.endpoint, stream.rank), None) is None:
            return
        stream.forgotten = True
        self._of_rank[stream.rank] -= 1
        if not self._of_rank[stream.rank]:
            del self._of_rank[stream.rank]
            self._hidden.discard(stream.rank)
            self._index.forget(stream.rank)


def _name(subject: object) -> str:
    if isinstance(subject, Rank):
        return f"{subject.pod} ({subject.model}, rank {subject.number})"
    return str(subject)
