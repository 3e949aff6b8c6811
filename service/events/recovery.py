"""What to do about missing batches: ask the engine's replay socket, and judge what it still has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any

from service.events.intake import Intake
from service.events.replay import Replayed, ReplayError, ask
from service.events.statistics import EventStatistics
from service.events.stream import Arrival, Stream, arrival, unread_arrival
from service.events.subscription import Context
from service.events.wire import WireError

_log = logging.getLogger(__name__)
_SLICE_SECONDS = 0.005
_ATTEMPTS = 3


class Recovery:
    """Rebuilds streams out of what their engines replay, one task per stream, without holding up the others."""

    def __init__(self, context: Context, intake: Intake, statistics: EventStatistics) -> None:
        self._context = context
        self._intake = intake
        self._statistics = statistics
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, stream: Stream) -> None:
        """Starts to ask for what a stream lacks; Intake.asked is called at the end."""
        self._run(self._recover(stream), stream.rank.pod)

    def introduce(self, address: str, heard: Callable[[Replayed], None]) -> None:
        """Asks an engine that has not been heard yet for its first batch, which tells who it is."""
        self._run(self._introduce(address, heard), address)

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _run(self, work: Coroutine[Any, Any, None], subject: str) -> None:
        task = asyncio.create_task(work, name=f"replay of {subject}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _introduce(self, address: str, heard: Callable[[Replayed], None]) -> None:
        with suppress(ReplayError):
            async with aclosing(ask(self._context, address, 0)) as replies:
                async for replayed in replies:
                    heard(replayed)
                    break

    async def _recover(self, stream: Stream) -> None:
        self._statistics.replays += 1
        began_at, gap_is_known = stream.next, bool(stream.waiting)
        answered = await self._answered(stream)
        stream.checked(in_vain=stream.next == began_at)
        self._intake.asked(stream, in_vain=not answered or (gap_is_known and stream.next == began_at))

    async def _answered(self, stream: Stream) -> bool:
        """Asks until the engine has said all that it still has; False when it does not answer again and again."""
        attempts = 0
        while attempts < _ATTEMPTS and not stream.forgotten:
            reached = stream.next
            try:
                await self._catch_up(stream)
            except ReplayError as error:
                reason = str(error)
                attempts = 1 if stream.next > reached else attempts + 1
            except Exception as error:
                _log.debug("The replay of %s failed", stream.rank.pod, exc_info=True)
                reason = f"an error of ours: {error!r}"
                break
            else:
                return True
        if stream.forgotten:
            return True
        self._statistics.replay_failures += 1
        self._intake.notices.say(logging.WARNING, stream.rank, "No replay of %s: %s", stream.rank.pod, reason)
        return False

    async def _catch_up(self, stream: Stream) -> None:
        rebuilds = stream.inexact is not None and not stream.beyond_replay
        fills_a_gap = bool(stream.waiting) and not stream.reconnected
        if rebuilds:
            start = 0
        elif fills_a_gap:
            start = stream.next
        else:
            # That the engine still has the last batch under its number shows that it has not restarted.
            start = max(stream.next - 1, 0)
        continues = await self._take(stream, start, rebuilds)
        if continues and fills_a_gap and not rebuilds and start:
            continues = await self._still_has(stream, start - 1)
        if not continues:
            await self._take(stream, 0, rebuilds=False)
        if stream.forgotten:
            return
        stream.catching_up = False
        if rebuilds and stream.inexact is not None:
            stream.beyond_replay = True  # what made it inexact is in what the engine replays
        if not stream.again and (stream.repeats or not stream.reconnected):
            self._intake.verified(stream)

    async def _take(self, stream: Stream, start: int, rebuilds: bool) -> bool:
        """Applies what is new among the batches from `start` on; False when the engine has restarted and is to be asked
        for its first batch."""
        assert stream.replay is not None  # noqa: S101 - streams without one are never asked
        applied, first = stream.next, True
        slice_ends = monotonic() + _SLICE_SECONDS
        async with aclosing(ask(self._context, stream.replay, start)) as replies:
            async for replayed in replies:
                if stream.forgotten:
                    return True
                arrived = self._read(stream, replayed)
                if first and not self._continues(stream, arrived, start, rebuilds):
                    return False
                first = False
                if arrived.sequence > stream.next:
                    if stream.next > max(start, stream.hole):
                        # ROUTER sockets drop what a slow reader has no room for; asked again, they bring it.
                        stream.hole = stream.next
                        raise ReplayError(f"{stream.replay} leaves out {stream.next}")
                    self._intake.lose(stream, arrived.sequence)
                    stream.beyond_replay = True
                if arrived.sequence >= stream.next:
                    stream.catching_up = True
                    self._intake.apply(stream, arrived)
                    if stream.waiting and stream.waiting[0].sequence == stream.next:
                        return True
                if monotonic() > slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = monotonic() + _SLICE_SECONDS
        if stream.forgotten:
            return True
        heard_since = stream.next > applied or any(waiting.sequence >= applied for waiting in stream.waiting)
        if first and start < applied and stream.repeats and not heard_since:
            self._intake.restart(stream, None)
            return False
        return True

    async def _still_has(self, stream: Stream, sequence: int) -> bool:
        """Whether the engine has the batch that came before a gap: if not, it restarted, and filled the gap anew."""
        assert stream.replay is not None  # noqa: S101 - streams without one are never asked
        async with aclosing(ask(self._context, stream.replay, sequence)) as replies:
            async for replayed in replies:
                if not stream.forgotten and stream.contradicts(self._read(stream, replayed)):
                    self._intake.restart(stream, None)
                    return False
                break
        return True

    def _continues(self, stream: Stream, arrived: Arrival, start: int, rebuilds: bool) -> bool:
        """Judges the first reply, which may show a restart. False when what comes before it is wanted then."""
        if start == 0:
            stream.beyond_replay = arrived.sequence > 0
        if stream.contradicts(arrived):
            self._intake.restart(stream, None)
            stream.catching_up = True
            return arrived.sequence == 0
        stream.repeats |= stream.knows(arrived)
        if rebuilds and arrived.sequence == 0:
            self._intake.rebuild(stream, None)
            stream.catching_up = True
        return True

    def _read(self, stream: Stream, replayed: Replayed) -> Arrival:
        if replayed.topic is not None and stream.topic not in (None, replayed.topic):
            raise ReplayError(f"{stream.replay} is the replay socket of {replayed.topic.decode(errors='replace')}")
        try:
            arrived = arrival(replayed.sequence, replayed.payload)
        except WireError as error:
            return unread_arrival(replayed.sequence, replayed.payload, stream.rank.number, str(error))
        if arrived.batch.rank != stream.rank.number:
            raise ReplayError(f"{stream.replay} is the replay socket of rank {arrived.batch.rank}")
        return arrived
