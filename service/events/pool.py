"""The events pool: subscriptions on one side, the index on the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from time import monotonic
from typing import Any

import msgspec
import zmq

from service.contract.endpoints import Endpoint
from service.events.access import Access
from service.events.capture import RankCapture, captures
from service.events.curve import KeyPair
from service.events.endpoint_status import EndpointState
from service.events.exactness import inexact_reason
from service.events.index_sink import IndexSink, count_skipped, rank_name
from service.events.messages import Message
from service.events.rate_limited_log import RateLimitedLog
from service.events.relay import Relayed, RelayedSubscription
from service.events.replay_socket import ANSWER_SECONDS, ReplayClient
from service.events.resolver import Resolver
from service.events.restored_ranks import RestoredRanks
from service.events.sequencer import Timing
from service.events.statistics import EventStatistics
from service.events.stream_records import StreamRecord
from service.events.stream_states import REASONS, Connection
from service.events.streams import Limits, Stream, Streams, claimant
from service.events.subscription import Subscription, SubscriptionOptions, new_context, tell_turned_away
from service.events.topic import read_topic
from service.index.base import Index, Rank

logger = logging.getLogger(__name__)
SWEEP_BLOCKS = 1024
_SWEEP_INTERVAL = 0.1
_WATCH_INTERVAL = 1.0
_SILENCE_INTERVAL = 60.0
_LISTED_PROBLEMS = 3
_FORGET_AFTER_TTLS = 12
"""The streams of a pod are dropped after it was disconnected for this many times POD_TTL."""
_RECONNECT_SECONDS = 5.0
_LOOK_SECONDS = 0.01
_HANDSHAKE_SECONDS = 0.1
"""From a connection until the publisher knows what is subscribed to."""
_UNREACHABLE = frozenset({EndpointState.CLOSED, EndpointState.UNRESOLVED, EndpointState.REFUSED})
_UNANSWERED = frozenset({EndpointState.RESOLVING, EndpointState.CONNECTING})
_TIMING = Timing()
_LIMITS = Limits()


class StreamReport(msgspec.Struct, frozen=True):
    """Source and state of a rank's blocks, as `/pods` shows them. Times are Unix seconds."""

    rank: Rank
    endpoint: str
    last_sequence: int | None
    last_event_at: float | None
    exact: bool
    inexact_reason: str | None
    connected: bool
    claimants: Sequence[str] = ()
    """Addresses of other endpoints whose messages about this rank are refused."""
    events_applied: int = 0
    lag_seconds: float | None = None


class EndpointReport(msgspec.Struct, frozen=True):
    """State of an endpoint, as `/endpoints` shows it. Times are Unix seconds."""

    address: str
    state: str
    connections: int
    messages: int
    last_message_at: float | None
    topics_left_out: Sequence[str]
    pods: Sequence[str]
    """Pods whose events come from this endpoint."""
    problem: str | None
    """Why no events arrive, and the remedy."""


def _unheard(record: StreamRecord) -> StreamReport:
    return StreamReport(
        rank=record.rank,
        endpoint=record.endpoint,
        last_sequence=record.order.sequence.next - 1,
        last_event_at=record.last_event_at,
        exact=False,
        inexact_reason=REASONS[Connection.RESTORED],
        connected=False,
    )


class EventPool:
    """Receives events from engines and applies them to an index, in the order of each rank.

    Each message is applied as it is read. Endpoints are read in turns of a few milliseconds, `concurrency` of them per
    turn of the event loop, so a flood from one endpoint delays the others by its turns only. At most `queue_batches`
    wait in a connection's socket, and as many for a replay. The blocks of a rank are hidden when its connection is lost
    for `pod_ttl` seconds of `clock`.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        index: Index,
        *,
        topic: str,
        default_model: str,
        concurrency: int = 4,
        queue_batches: int = 100_000,
        pod_ttl: float = 30.0,
        first_check: float = _TIMING.first_check,
        replay_timeout: float = ANSWER_SECONDS,
        max_streams: int = _LIMITS.streams,
        resolver: Resolver | None = None,
        silence_interval: float = _SILENCE_INTERVAL,
        clock: Callable[[], float] = monotonic,
        own_keys: KeyPair | None = None,
        relayed: Relayed | None = None,
        applied: Callable[[Rank], None] = lambda rank: None,
        waits: bool = False,
        keeps_unverified: bool = True,
    ) -> None:
        """`applied` is called with a rank after each change of its blocks.

        If it `waits`, messages are kept in the sockets until `begin`. `keeps_unverified` is whether blocks of a
        snapshot count, inexact, if nothing can tell whether their engine is still the same. `relayed` tells of bound
        endpoints; without it they are bound here.
        """
        self.statistics = EventStatistics()
        self._index = index
        self._applied = applied
        self._log = RateLimitedLog(logger)
        self._context: zmq.Context[zmq.Socket[bytes]] = new_context()
        resolver = resolver or Resolver()
        self._client = ReplayClient(resolver, replay_timeout, own_keys)
        self._access = Access(self._context, own_keys, self._turned_away)
        self._default_model = default_model
        self._silence_interval = silence_interval
        self._logged_silence_at = monotonic()
        self._watch_interval = min(_WATCH_INTERVAL, pod_ttl / 4, silence_interval / 4)
        self._keeps_unverified = keeps_unverified
        self._begin = asyncio.Event()
        self._began_at = clock()
        self._clock = clock
        if not waits:
            self._begin.set()
        self._restored = RestoredRanks(index, _FORGET_AFTER_TTLS * pod_ttl, clock)
        self._unsettled: list[IndexSink] = []
        """Ranks whose batches are not counted yet in the turn of an endpoint."""
        self._streams = Streams(
            self._sink,
            self,
            self._client,
            default_model=default_model,
            timing=Timing(first_check, hide_after=pod_ttl, forget_after=_FORGET_AFTER_TTLS * pod_ttl, clock=clock),
            limits=Limits(streams=max_streams, waiting=queue_batches),
            created=self._created,
        )
        if relayed is not None:
            relayed.turned_away = self._turned_away
        self._relayed = relayed
        self._options = SubscriptionOptions(
            context=self._context,
            topic=topic,
            listener=self,
            turns=asyncio.Semaphore(concurrency),
            access=self._access,
            resolver=resolver,
            high_water=queue_batches,
            begin=self._begin,
            turned=self._settle,
        )
        self.on_bound_message: Callable[[Endpoint, Message], None] = lambda endpoint, message: None
        """Called with each message of an engine that connects to us."""
        self.on_bound_disconnect: Callable[[Endpoint, int], None] = lambda endpoint, connection: None
        """Called with a connection of such an engine that has ended."""
        self._subscriptions = [self._subscribe(endpoint) for endpoint in endpoints]
        self._behind: dict[IndexSink, None] = {}
        """Ranks with large batches that are not applied yet."""
        self._is_behind = asyncio.Event()
        self._closing: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def _subscribe(self, endpoint: Endpoint) -> Subscription:
        if self._relayed is not None and endpoint.binds:
            return RelayedSubscription(self._relayed, endpoint, self._options)
        return Subscription(endpoint, self._options)

    def _sink(self, rank: Rank, topic: bytes, endpoint: Endpoint) -> IndexSink:
        if endpoint.eagle == "1":
            self._index.drop_last_block(rank)
        return IndexSink(
            rank,
            self._index,
            self.statistics,
            self._log,
            self._defer,
            applied=self._applied,
            opened=self._unsettled.append,
        )

    def _settle(self) -> None:
        """Counts what the turn of an endpoint has applied."""
        unsettled, self._unsettled[:] = list(self._unsettled), ()
        for sink in unsettled:
            sink.settle()

    def _defer(self, sink: IndexSink) -> None:
        self._behind[sink] = None
        self._is_behind.set()

    async def start(self) -> None:
        """Opens the sockets; a socket that cannot be opened becomes a problem, not an error."""
        self._run(self._sweep(), "index sweeper")
        self._run(self._watch(), "events watch")
        self._run(self._apply_large_batches(), "large batches")
        if self._relayed is not None:
            self._relayed.start()
        for subscription in self._subscriptions:
            subscription.open()
        logger.info("Events pool started: %s", ", ".join(self.addresses()))
        for problem in self.problems():
            logger.warning("Events pool: %s", problem)

    async def close(self) -> None:
        # First of all the watch, which opens sockets that are closed.
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for subscription in self._subscriptions:
            await subscription.close()
        await asyncio.gather(*self._closing)
        if self._relayed is not None:
            await self._relayed.close()
        await self._client.close()
        await self._access.close()
        self._context.destroy(linger=0)

    # Snapshots

    def restore(self, record: StreamRecord) -> None:
        """Continues a rank of a snapshot, whose blocks are in the index and hidden. To be called before `begin`.

        They count once its engine was found to be the same.
        """
        self._index.hide(record.rank)
        self._restored.add(record)

    async def reach(self, seconds: float) -> None:
        """Waits until engines that we connect to have answered: what they publish from then on waits in the sockets."""
        connecting = [one for one in self._subscriptions if not one.endpoint.binds]
        for _ in range(int(seconds / _LOOK_SECONDS)):
            if all(one.is_answered for one in connecting):
                break
            await asyncio.sleep(_LOOK_SECONDS)
        if connecting:
            await asyncio.sleep(_HANDSHAKE_SECONDS)

    def begin(self) -> None:
        """Reads the sockets of a pool that waits."""
        self._began_at = self._clock()
        self._begin.set()

    async def begun(self) -> None:
        """Waits until the sockets are read."""
        await self._begin.wait()

    def bound(self, address: str) -> Subscription | None:
        """The subscription to an endpoint that engines connect to; None if there is none."""
        bound = (one for one in self._subscriptions if one.endpoint.binds and one.endpoint.address == address)
        return next(bound, None)

    def changes(self) -> object:
        """A value that is another one after each change of any rank's blocks."""
        counted = self.statistics
        return counted.batches_applied, counted.restarts, counted.batches_lost, len(self._streams), len(self._restored)

    def captures(self) -> AsyncIterator[RankCapture]:
        """A copy of each rank with blocks, one by one."""
        return captures(self._streams, self._restored, self._index)

    def awaited(self) -> int:
        """The number of restored ranks whose engine can be expected to be heard, and was not yet.

        Engines that connect to us are given a few seconds.
        """
        reconnecting = self._clock() - self._began_at < _RECONNECT_SECONDS
        expected = {
            one.endpoint.address
            for one in self._subscriptions
            if (reconnecting if one.endpoint.binds else one.status.state not in _UNREACHABLE)
        }
        parked = sum(record.endpoint in expected for record in self._restored)
        return parked + sum(stream.sequencer.awaits_engine for stream in self._streams)

    def _created(self, stream: Stream[IndexSink]) -> None:
        stream.subscription.status.has_spoken()
        record = self._restored.take(stream.rank)
        if record is not None:
            stream.sink.restore(record.lost, record.last_event_at)
            stream.sequencer.restore(record.order, keeps_unverified=self._keeps_unverified)

    def follow(self, endpoint: Endpoint) -> None:
        """Subscribes to an endpoint, unless its address is already subscribed to."""
        if all(subscription.endpoint.address != endpoint.address for subscription in self._subscriptions):
            subscription = self._subscribe(endpoint)
            self._subscriptions.append(subscription)
            subscription.open()

    def unfollow(self, endpoint: Endpoint) -> None:
        """Ends the subscription to an endpoint, and drops the streams received from it."""
        for subscription in [one for one in self._subscriptions if one.endpoint == endpoint]:
            self._subscriptions.remove(subscription)
            self._streams.drop(subscription)
            closing = asyncio.create_task(subscription.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def problems(self) -> list[str]:
        """A sentence for each socket that cannot be opened. An engine that does not run yet is no problem."""
        return [subscription.problem for subscription in self._subscriptions if subscription.problem]

    def silent(self) -> list[str]:
        """A sentence with the remedy for each endpoint that has sent nothing."""
        return [status.problem for status in (one.status for one in self._subscriptions) if status.problem]

    def endpoints(self) -> list[EndpointReport]:
        pods: dict[Subscription, set[str]] = {}
        for stream in self._streams:
            pods.setdefault(stream.subscription, set()).add(stream.rank.pod)
        return [
            EndpointReport(
                subscription.endpoint.address,
                subscription.status.state.value,
                len(subscription.connections),
                subscription.status.messages,
                subscription.status.last_message_at,
                subscription.status.topics_left_out,
                sorted(pods.get(subscription, ())),
                subscription.status.problem,
            )
            for subscription in self._subscriptions
        ]

    def addresses(self) -> list[str]:
        """The address of each endpoint, with the port that the system chose."""
        return [subscription.address for subscription in self._subscriptions]

    def streams(self) -> list[StreamReport]:
        """The source of each rank's blocks, and whether its answers are exact."""
        return [*(self._report(stream) for stream in self._streams), *(_unheard(record) for record in self._restored)]

    def unheard(self) -> list[StreamReport]:
        """Reports rank 0 for each endpoint that we connect to and that has sent nothing, as far as its pod is known.

        The ranks of an engine that is idle since a restart of this service are known from the snapshot.
        """
        known = {stream.subscription for stream in self._streams}
        return [
            StreamReport(
                rank=Rank(*read_topic(b"", endpoint, self._default_model)),
                endpoint=endpoint.address,
                last_sequence=None,
                last_event_at=None,
                exact=False,
                inexact_reason="not heard yet",
                connected=bool(subscription.connections),
            )
            for subscription in self._subscriptions
            if not (endpoint := subscription.endpoint).binds and not subscription.status.messages
            if subscription not in known
        ]

    def waiting(self) -> int:
        """The number of batches that wait for a replay."""
        return sum(stream.sequencer.waiting for stream in self._streams)

    def forget(self, pod: str) -> bool:
        """Drops a pod's blocks and streams; False if it is unknown. Its next event adds it again."""
        return self._restored.forget(pod) | self._streams.forget(pod)

    def unasked(self, endpoints: Iterable[Endpoint]) -> int:
        """How many of these endpoints and of all silent engines have not told yet whether they published before."""
        wanted = {endpoint.address for endpoint in endpoints if not endpoint.binds}
        states = (one.status.state for one in self._subscriptions if one.endpoint.address in wanted)
        return sum(state in _UNANSWERED for state in states) + self._client.introducing

    def is_exact(self, rank: Rank) -> bool:
        """Whether answers about a rank are known to equal its engine's. A rank that was not heard yet is inexact."""
        stream = self._streams.of(rank)
        return stream is not None and self._inexact_reason(stream) is None

    def _inexact_reason(self, stream: Stream[IndexSink]) -> str | None:
        claimed = bool(self._streams.claimants(stream.rank))
        return inexact_reason(stream, self._index.inexact_reason(stream.rank), claimed=claimed)

    def _report(self, stream: Stream[IndexSink]) -> StreamReport:
        sequencer = stream.sequencer
        claimants = self._streams.claimants(stream.rank)
        reason = self._inexact_reason(stream)
        return StreamReport(
            rank=stream.rank,
            endpoint=stream.subscription.endpoint.address,
            last_sequence=sequencer.next - 1 if sequencer.next else None,
            last_event_at=stream.sink.last_event_at,
            exact=reason is None,
            inexact_reason=reason,
            connected=sequencer.connected,
            claimants=claimants,
            events_applied=stream.sink.events_applied,
            lag_seconds=stream.sink.lag_seconds,
        )

    # Listener of the subscriptions

    def received(self, subscription: Subscription, message: Message) -> None:
        self.statistics.messages_received += 1
        if message.connection is not None and message.connection >= 0:
            self.on_bound_message(subscription.endpoint, message)
        try:
            self._streams.received(subscription, message)
        except Exception as error:
            logger.debug("A batch of %s could not be applied", message.topic, exc_info=True)
            count_skipped(self.statistics, self._log, subscription.endpoint.address, "internal error")
            notice = "A batch of %s could not be applied: %r"
            self._log.log(logging.ERROR, message.topic, notice, message.topic, error)

    def malformed(self, subscription: Subscription) -> None:
        self.statistics.messages_received += 1
        subscription.status.could_not_use("frames")
        count_skipped(self.statistics, self._log, subscription.endpoint.address, "frames")

    def connected(self, subscription: Subscription) -> None:
        endpoint = subscription.endpoint
        for record in () if endpoint.binds else self._restored:
            if record.endpoint == endpoint.address:
                self._streams.expect(subscription, record.topic, record.rank)
        self._streams.connected(subscription)

    def disconnected(self, subscription: Subscription, connection: int) -> None:
        if subscription.endpoint.binds and connection >= 0:
            self.on_bound_disconnect(subscription.endpoint, connection)
        self._streams.disconnected(subscription, connection)

    # Observer of the streams

    def unreadable(self, subscription: Subscription, message: Message, reason: str) -> None:
        subscription.status.could_not_use(reason, message.topic)
        count_skipped(self.statistics, self._log, subscription.endpoint.address, reason)

    def refused(self, stream: Stream[Any], subscription: Subscription, peer: str | None) -> None:
        self.statistics.claims_refused[subscription.endpoint.address] += 1
        notice = "%s speaks for %s, which %s spoke for first: refused"
        rank, owner = stream.rank, stream.subscription.endpoint.address
        self._log.log(logging.WARNING, rank, notice, claimant(subscription, peer), rank_name(rank), owner)

    def _turned_away(self, endpoint: Endpoint, peer: str, reason: str) -> None:
        self.statistics.peers_refused += 1
        tell_turned_away(self._subscriptions, endpoint, peer, reason)
        notice = "%s may not connect to %s: %s"
        self._log.log(logging.WARNING, (endpoint.address, reason), notice, peer, endpoint.address, reason)

    async def _sweep(self) -> None:
        while True:
            more = self._index.sweep(SWEEP_BLOCKS)
            await asyncio.sleep(0 if more else _SWEEP_INTERVAL)

    async def _apply_large_batches(self) -> None:
        """Applies a slice of each rank that is behind, and lets all other work go on in between."""
        while True:
            await self._is_behind.wait()
            for sink in list(self._behind):
                if not sink.apply_slice():
                    del self._behind[sink]
                await asyncio.sleep(0)
            if not self._behind:
                self._is_behind.clear()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_interval)
            for subscription in self._subscriptions:
                subscription.open()
            self._streams.tick()
            self._restored.expire()
            if monotonic() - self._logged_silence_at > self._silence_interval:
                self._look_for_silence()

    def _look_for_silence(self) -> None:
        """Logs all silent endpoints in one line, and probes for topics that the prefix excludes."""
        self._logged_silence_at = monotonic()
        for subscription in self._subscriptions:
            if subscription.status.state is EndpointState.CONNECTED:
                subscription.probe()
        if problems := self.silent():
            more = f" (and {len(problems) - _LISTED_PROBLEMS} more)" if len(problems) > _LISTED_PROBLEMS else ""
            logger.warning("Nothing arrives from %s%s", "; ".join(problems[:_LISTED_PROBLEMS]), more)

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))
