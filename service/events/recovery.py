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
from service.events.stream import Arrival, Stream, arrival, payload_digest
from service.events.subscription import Context
from service.events.wire import Batch, WireError

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
        stream.checked()
        self._intake.asked(stream, in_vain=not answered or (gap_is_known and stream.next == began_at))

    async def _answered(self, stream: Stream) -> bool:
        """Asks until the engine has said all that it still has; False when it does not answer again and again."""
        for _ in range(_ATTEMPTS):
            try:
                await self._catch_up(stream)
            except ReplayError as error:
                reason = str(error)
            except Exception:
                _log.exception("The replay of %s failed", stream.rank.pod)
                reason = "an error of ours"
                break
            else:
                return True
        self._statistics.replay_failures += 1
        self._intake.notices.say(logging.WARNING, stream.rank, "No replay of %s: %s", stream.rank.pod, reason)
        return False

    async def _catch_up(self, stream: Stream) -> None:
        rebuilds = stream.inexact is not None and not stream.beyond_replay
        if rebuilds:
            start = 0
        elif stream.waiting and not stream.reconnected:
            start = stream.next
        else:
            # That the engine still has the last batch under its number shows that it has not restarted.
            start = max(stream.next - 1, 0)
        if not await self._take(stream, start, rebuilds):
            await self._take(stream, 0, rebuilds=False)
        if not stream.again:
            self._intake.verified(stream)

    async def _take(self, stream: Stream, start: int, rebuilds: bool) -> bool:
        """Applies what is new among the batches from `start` on; False when the engine has restarted and is to be asked
        for its first batch."""
        assert stream.replay is not None  # noqa: S101 - streams without one are never asked
        applied, first = stream.next, True
        slice_ends = monotonic() + _SLICE_SECONDS
        async with aclosing(ask(self._context, stream.replay, start)) as replies:
            async for replayed in replies:
                arrived = self._read(stream, replayed)
                if stream.forgotten:
                    return True
                if first and not self._continues(stream, arrived, start, rebuilds):
                    return False
                first = False
                if arrived.sequence > stream.next:
                    self._intake.lose(stream, arrived.sequence)
                    stream.beyond_replay = True
                if arrived.sequence >= stream.next:
                    self._intake.apply(stream, arrived)
                if monotonic() > slice_ends:
                    await asyncio.sleep(0)
                    slice_ends = monotonic() + _SLICE_SECONDS
        heard_since = stream.next > applied or any(waiting.sequence >= applied for waiting in stream.waiting)
        if first and start < applied and not heard_since:
            self._intake.restart(stream, None)
            return False
        return True

    def _continues(self, stream: Stream, arrived: Arrival, start: int, rebuilds: bool) -> bool:
        """Judges the first reply, which may show a restart. False when what comes before it is wanted then."""
        if start == 0:
            stream.beyond_replay = arrived.sequence > 0
        if stream.contradicts(arrived):
            self._intake.restart(stream, None)
            return arrived.sequence == 0
        if rebuilds and arrived.sequence == 0:
            self._intake.rebuild(stream, None)
        return True

    def _read(self, stream: Stream, replayed: Replayed) -> Arrival:
        try:
            arrived = arrival(replayed.sequence, replayed.payload)
        except WireError as error:
            unread = Batch(None, (), stream.rank.number, {str(error): 1})
            return Arrival(replayed.sequence, payload_digest(replayed.payload), unread)
        if arrived.batch.rank != stream.rank.number:
            raise ReplayError(f"{stream.replay} is the replay socket of rank {arrived.batch.rank}")
        return arrived
