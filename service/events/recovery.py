"""What to do about missing batches: ask the engine's replay socket, and judge what it still has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import monotonic

from service.events.intake import Intake
from service.events.replay import Replayed, ReplayError, ask
from service.events.statistics import EventStatistics
from service.events.stream import Arrival, Stream, arrival, payload_digest
from service.events.subscription import Context
from service.events.wire import Batch, WireError

_SLICE_SECONDS = 0.005
_IDLE_INTERVAL = 30.0


class Recovery:
    """Rebuilds streams out of what their engines replay, one task per stream, without holding up the others."""

    def __init__(self, context: Context, intake: Intake, statistics: EventStatistics) -> None:
        self._context = context
        self._intake = intake
        self._statistics = statistics
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self, stream: Stream) -> None:
        task = asyncio.create_task(self._recover(stream), name=f"replay of {stream.rank.pod}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _recover(self, stream: Stream) -> None:
        assert stream.replay is not None  # noqa: S101 - streams without one are never asked
        self._statistics.replays += 1
        try:
            if not await self._take(stream, ask(self._context, stream.replay, max(stream.next - 1, 0))):
                self._intake.restart(stream)
                await self._take(stream, ask(self._context, stream.replay, 0))
        except ReplayError as error:
            self._statistics.replay_failures += 1
            self._intake.notices.say(logging.WARNING, stream.rank, "No replay for %s: %s", stream.rank.pod, str(error))
        finally:
            stream.check_at = monotonic() + _IDLE_INTERVAL
            self._intake.asked(stream)

    async def _take(self, stream: Stream, replies: AsyncGenerator[Replayed]) -> bool:
        """Applies what is new among the replies. False when they show that the engine has restarted.

        They are asked for from the last batch applied, which the engine still has under its number unless it
        restarted or its buffer no longer reaches back to it.
        """
        applied, first = stream.next, True
        slice_ends = monotonic() + _SLICE_SECONDS
        async with aclosing(replies):
            async for replayed in replies:
                arrived = self._read(stream, replayed)
                if first and arrived.sequence < applied and not stream.knows(arrived):
                    return False
                first = False
                if arrived.sequence > stream.next:
                    self._intake.lose(stream, arrived.sequence)
                if arrived.sequence >= stream.next:
                    self._intake.apply(stream, arrived)
                if monotonic() > slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = monotonic() + _SLICE_SECONDS
                if stream.forgotten:
                    break
        nothing_newer_is_heard = all(waiting.sequence < applied for waiting in stream.waiting)
        return not (first and applied and nothing_newer_is_heard)

    def _read(self, stream: Stream, replayed: Replayed) -> Arrival:
        try:
            arrived = arrival(replayed.sequence, replayed.payload)
        except WireError as error:
            unread = Batch(None, (), stream.rank.number, {str(error): 1})
            return Arrival(replayed.sequence, payload_digest(replayed.payload), unread)
        if arrived.batch.rank != stream.rank.number:
            raise ReplayError(f"{stream.replay} is the replay socket of rank {arrived.batch.rank}")
        return arrived
