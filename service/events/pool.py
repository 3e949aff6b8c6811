"""The events pool: subscriptions on one side, the index on the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from time import monotonic
from typing import Any

import zmq

from service.contract.settings import Settings
from service.events.intake import Intake
from service.events.recovery import Recovery
from service.events.replay import Replayed
from service.events.statistics import EventStatistics
from service.events.stream import Stream, StreamState, arrival, unread_arrival
from service.events.subscription import Message, Subscription
from service.events.topic import read_topic
from service.events.wire import WireError
from service.index.base import Index, Rank

_log = logging.getLogger(__name__)
SWEEP_BLOCKS = 1024
_SWEEP_INTERVAL = 0.1
_MOST_TOPICS = 100_000
_MOST_STREAMS = 20_000
"""What a publisher makes up, or one gone mad, fills neither memory nor log nor metrics."""
_FORGOTTEN_AFTER_TTLS = 12
"""A pod that stayed away this many times POD_TTL will not come back to what it held: its memory is given up."""


class EventPool:
    """Receives what engines publish and applies it to an index, in the order of each rank.

    Each message is applied as it is read. Endpoints are read in turns of a few milliseconds, `pool_concurrency` of them
    before other work of the event loop, so one that floods delays the others by no more than its turns.
    """

    def __init__(self, settings: Settings, index: Index) -> None:
        self.statistics = EventStatistics()
        self._settings = settings
        self._index = index
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._intake = Intake(index, self.statistics, self._ask, settings.pool_queue_batches)
        self._recovery = Recovery(self._context, self._intake, self.statistics)
        turns = asyncio.Semaphore(settings.pool_concurrency)
        self._subscriptions = [
            Subscription(
                self._context,
                endpoint,
                settings.zmq_topic,
                self,
                turns=turns,
                high_water=settings.pool_queue_batches,
            )
            for endpoint in settings.zmq_endpoint
        ]
        self._heard: dict[tuple[Subscription, bytes, int, str | None], Stream] = {}
        self._of_topic: dict[tuple[str, bytes], list[Stream]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Opens the sockets; one that cannot be opened is a problem, not an error."""
        self._run(self._sweep(), "index sweeper")
        self._run(self._watch(), "events watch")
        for subscription in self._subscriptions:
            subscription.open()
        addresses = ", ".join(subscription.endpoint.address for subscription in self._subscriptions)
        _log.info("Events pool started: %s", addresses)
        for problem in self.problems():
            _log.warning("Events pool: %s", problem)

    async def close(self) -> None:
        for subscription in self._subscriptions:
            await subscription.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._recovery.close()
        self._context.destroy(linger=0)

    def problems(self) -> list[str]:
        """A sentence for each socket that is not up. An engine that is not there yet is no problem."""
        return [subscription.problem for subscription in self._subscriptions if subscription.problem]

    def addresses(self) -> list[str]:
        """Where each endpoint is, with the ports that the system chose filled in."""
        return [subscription.address for subscription in self._subscriptions]

    def streams(self) -> list[StreamState]:
        """Where each rank's blocks come from, and whether its answers can be trusted."""
        heard_last = sorted(self._intake, key=lambda stream: stream.last_event_at or 0.0)
        return list({stream.rank: self._state(stream) for stream in heard_last}.values())

    def waiting(self) -> int:
        """Batches that wait for a replay to bring what is missing before them."""
        return sum(len(stream.waiting) for stream in self._intake)

    def forget(self, pod: str) -> bool:
        """Drops a pod's blocks and streams; False when it is unknown. It is back with its next event."""
        streams = [stream for stream in self._intake if stream.rank.pod == pod]
        for stream in streams:
            self._intake.forget(stream)
        return bool(streams)

    def _state(self, stream: Stream) -> StreamState:
        reason = stream.inexact or self._index.inexact_reason(stream.rank)
        if self._intake.shared(stream.rank):
            reason = reason or "several endpoints speak for this rank"
        if len(stream.voices) > 1:
            reason = reason or "several engines publish under its name"
        if stream.restless:
            reason = reason or "it restarts again and again, as if several engines published under its name"
        if stream.waiting or stream.catching_up:
            reason = reason or "a replay is under way"
        if stream.lost_at is not None:
            reason = reason or "the connection is lost"
        elif stream.reconnected:
            reason = reason or "the connection was lost, and nothing shows yet whether something was missed"
        return StreamState(
            rank=stream.rank,
            endpoint=stream.endpoint,
            last_sequence=stream.next - 1 if stream.next else None,
            last_event_at=stream.last_event_at,
            exact=reason is None,
            inexact_reason=reason,
            connected=stream.lost_at is None,
        )

    def received(self, subscription: Subscription, message: Message) -> None:
        self.statistics.messages_received += 1
        try:
            self._apply(subscription, message)
        except Exception as error:
            _log.debug("A batch of %s could not be applied", message.topic, exc_info=True)
            self._intake.skip(subscription.endpoint.address, "an error of ours")
            notice = "A batch of %s could not be applied: %r"
            self._intake.notices.say(logging.ERROR, message.topic, notice, message.topic, error)

    def malformed(self, subscription: Subscription) -> None:
        self.statistics.messages_received += 1
        self._intake.skip(subscription.endpoint.address, "frames")

    def _apply(self, subscription: Subscription, message: Message) -> None:
        try:
            arrived = arrival(message.sequence, message.payload)
            stream = self._heard.get((subscription, message.topic, arrived.batch.rank, message.peer))
            if stream is None or stream.forgotten:
                stream = self._stream(subscription, message.topic, arrived.batch.rank, message.peer)
        except WireError as error:
            self._unread(subscription, message, str(error))
            return
        connection = message.connection
        if connection != stream.connection or connection not in stream.voices or stream.lost_at is not None:
            self._comes_through(subscription, stream, connection)
        stream.stir()
        self._intake.receive(stream, arrived)

    def _comes_through(self, subscription: Subscription, stream: Stream, connection: int | None) -> None:
        """Takes note of the connection that a stream comes through, which may be new, or back."""
        # What waited in the socket while its connection was lost does not bring that back.
        if subscription.stands(connection):
            moved = connection != stream.connection and stream.next > 0
            stream.voices.add(connection)
            stream.connection = connection
            stream.reconnected |= moved
            if moved or stream.lost_at is not None:
                self._intake.found(stream)

    def _unread(self, subscription: Subscription, message: Message, reason: str) -> None:
        """Takes a message of which topic and number can be read at most: what it was to say is missing."""
        endpoint = subscription.endpoint
        streams = [one for one in self._of_topic.get((endpoint.address, message.topic), ()) if not one.forgotten]
        if len(streams) == 1 and message.sequence == streams[0].next and not streams[0].asking:
            rank = streams[0].rank.number
            self._intake.receive(streams[0], unread_arrival(message.sequence, message.payload, rank, reason))
            return
        self._intake.skip(endpoint.address, reason)
        for stream in streams:
            if message.sequence >= stream.next and not stream.asking:  # else the replay brings it
                self._intake.distrust(stream, f"a batch could not be read ({reason})")

    def _stream(self, subscription: Subscription, topic: bytes, rank: int, peer: str | None = None) -> Stream:
        """The stream of a rank, made when it is heard for the first time. Raises WireError when there are too many."""
        stream = self._heard.get((subscription, topic, rank, peer))
        if stream is None or stream.forgotten:
            endpoint = subscription.endpoint
            source = read_topic(topic, endpoint, self._settings.model_name, peer)
            name = Rank(source.pod, source.model, rank)
            if len(self._intake) >= _MOST_STREAMS and not self._intake.has(endpoint.address, name):
                raise WireError("too many ranks")
            stream = self._intake.stream(endpoint.address, name, endpoint.replay_of(source.pod, rank))
            stream.topic = topic
            if len(self._heard) >= _MOST_TOPICS:
                self._heard.clear()
                self._of_topic.clear()
            self._heard[subscription, topic, rank, peer] = stream
            self._of_topic.setdefault((endpoint.address, topic), []).append(stream)
        return stream

    def connected(self, subscription: Subscription) -> None:
        endpoint = subscription.endpoint
        if endpoint.binds:
            return  # the next message tells whose connection it is
        streams = [stream for stream in self._intake if stream.endpoint == endpoint.address]
        for stream in streams:
            self._intake.found(stream)
        if not streams and endpoint.replay is not None:
            self._recovery.introduce(endpoint.replay, lambda replayed: self._introduced(subscription, replayed))

    def _introduced(self, subscription: Subscription, replayed: Replayed) -> None:
        topic = replayed.topic
        if topic is None and subscription.endpoint.pod is not None:
            topic = b""
        if topic is None or not subscription.wants(topic) or not subscription.connections:
            return  # what came of a connection that is lost by now would stand for one that nobody sees end
        with suppress(WireError):
            rank = arrival(replayed.sequence, replayed.payload).batch.rank
            self._intake.ask(self._stream(subscription, topic, rank))

    def disconnected(self, subscription: Subscription, connection: int) -> None:
        for stream in self._intake:
            if stream.endpoint == subscription.endpoint.address:
                stream.voices.discard(connection)
                if stream.connection in (None, connection):
                    self._intake.lost(stream)

    async def _sweep(self) -> None:
        while True:
            more = self._index.sweep(SWEEP_BLOCKS)
            await asyncio.sleep(0 if more else _SWEEP_INTERVAL)

    async def _watch(self) -> None:
        ttl = self._settings.pod_ttl
        while True:
            await asyncio.sleep(min(1.0, ttl / 4))
            for subscription in self._subscriptions:
                subscription.open()
            for stream in self._intake:
                if stream.lost_at is None:
                    self._check(stream)
                elif monotonic() - stream.lost_at > _FORGOTTEN_AFTER_TTLS * ttl:
                    self._intake.forget(stream)
                elif monotonic() - stream.lost_at > ttl:
                    self._intake.hide(stream)

    def _ask(self, stream: Stream) -> None:
        self._recovery.begin(stream)

    def _check(self, stream: Stream) -> None:
        if monotonic() > stream.check_at:
            self._intake.ask(stream)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))
