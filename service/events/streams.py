"""Assigns messages to the streams of ranks, and ranks to endpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Generic, Protocol, TypeAlias, TypeVar

import msgspec

from service.contract.endpoints import Endpoint
from service.events.arrival import Arrival, receive_arrival, unreadable_arrival
from service.events.messages import Message
from service.events.replay_frames import Replayed, ReplayError
from service.events.replay_socket import UNKNOWN_HOST, ReplayClient, Source
from service.events.sequencer import Sequencer, Sink, Timing
from service.events.subscription import Subscription
from service.events.topic import read_topic
from service.events.wire import WireError
from service.index.base import Rank

SinkT = TypeVar("SinkT", bound=Sink)
_Speaker: TypeAlias = tuple[Subscription, int | None]
_SEARCHED = 1000


class Stream(msgspec.Struct, Generic[SinkT], eq=False):
    """One rank's batches from one endpoint."""

    rank: Rank
    subscription: Subscription
    topic: bytes
    sink: SinkT
    sequencer: Sequencer
    speaker: _Speaker
    """The connection that it was first received through."""
    peer: str | None = None
    removed: bool = False

    def read(self, replayed: Replayed) -> Arrival:
        """Decodes a reply. Raises ReplayError if it belongs to another stream."""
        if replayed.topic not in (None, self.topic):
            raise ReplayError(f"it is the replay socket of {(replayed.topic or b'').decode(errors='replace')}")
        try:
            arrival = receive_arrival(replayed.sequence, replayed.payload)
        except WireError as error:
            return unreadable_arrival(replayed.sequence, replayed.payload, self.rank.number, str(error))
        if arrival.batch.rank != self.rank.number:
            raise ReplayError(f"it is the replay socket of rank {arrival.batch.rank}")
        return arrival


class Observer(Protocol):
    """Counts and logs messages that no stream takes."""

    def unreadable(self, subscription: Subscription, message: Message, reason: str) -> None: ...

    def refused(self, stream: Stream[SinkT], subscription: Subscription, peer: str | None) -> None:
        """Another endpoint claimed the stream's rank."""
        ...


def claimant(subscription: Subscription, peer: str | None) -> str:
    """The address that a claim comes from: of the endpoint, and of the engine's host if the endpoint is bound."""
    address = subscription.endpoint.address
    return address if peer is None else f"{address} from {peer}"


class Limits(msgspec.Struct, frozen=True):
    """Bounds on what a misbehaving publisher can create."""

    streams: int = 10_000
    topics: int = 100_000
    topic_bytes: int = 1024
    waiting: int = 100_000
    """Batches of one stream that wait for a replay."""


_LIMITS = Limits()
_TIMING = Timing()


class Streams(Generic[SinkT]):
    """Routes each received message to its stream, and creates the stream on its first message.

    If `exclusive`, a rank belongs to the endpoint that first spoke for it, while that is connected, and the claims of
    others are refused; otherwise each endpoint has a stream of its own.
    `make_sink` is called with the rank, its topic and the endpoint. `default_model` is the model of topics without one.
    """

    def __init__(
        self,
        make_sink: Callable[[Rank, bytes, Endpoint], SinkT],
        observer: Observer,
        client: ReplayClient,
        *,
        default_model: str,
        rebuilds: bool = True,
        exclusive: bool = True,
        timing: Timing = _TIMING,
        limits: Limits = _LIMITS,
        created: Callable[[Stream[SinkT]], None] = lambda stream: None,
    ) -> None:
        """`created` is called with each stream before its first batch."""
        self._make_sink = make_sink
        self._observer = observer
        self._client = client
        self._default_model = default_model
        self._rebuilds = rebuilds
        self._exclusive = exclusive
        self._timing = timing
        self._limits = limits
        self._created = created
        self._streams: dict[tuple[Rank, Subscription | None], Stream[SinkT]] = {}
        self._heard: dict[tuple[Subscription, bytes, int, str | None], Stream[SinkT]] = {}
        self._of_topic: dict[tuple[Subscription, bytes], list[Stream[SinkT]]] = {}
        self._of_speaker: dict[_Speaker, dict[Stream[SinkT], None]] = {}
        self._claims: dict[Rank, dict[Subscription, tuple[bytes, str | None]]] = {}

    def __iter__(self) -> Iterator[Stream[SinkT]]:
        return iter(list(self._streams.values()))

    def __len__(self) -> int:
        return len(self._streams)

    def of(self, rank: Rank) -> Stream[SinkT] | None:
        """The stream of a rank, if ranks are exclusive; None if nothing speaks for it."""
        return self._streams.get((rank, None))

    def claimants(self, rank: Rank) -> list[str]:
        """Addresses of the other endpoints that claim a rank, with the engine's host where they are bound."""
        claims = self._claims.get(rank, {})
        return [claimant(subscription, peer) for subscription, (_, peer) in claims.items()]

    def received(self, subscription: Subscription, message: Message) -> None:
        connection, payload = message.connection, message.payload
        # The last byte of most payloads is their rank, which the sink checks.
        stream = self._heard.get((subscription, message.topic, payload[-1] if payload else 0, message.peer))
        if (
            stream is not None
            and connection == stream.sequencer.settled_connection
            and stream.sequencer.receive_packed(message.sequence, payload)
        ):
            return
        try:
            arrival = receive_arrival(message.sequence, payload)
            stream = self._heard.get((subscription, message.topic, arrival.batch.rank, message.peer))
            if stream is None or stream.removed:
                stream = self._find(subscription, message.topic, arrival.batch.rank, message.peer, connection)
        except WireError as error:
            self._unreadable(subscription, message, str(error))
            return
        if stream is None:
            return
        sequencer = stream.sequencer
        if connection is not None and connection < 0:
            settled = sequencer.settled_connection
            if settled is not None and settled >= 0 and subscription.stands(settled):
                return  # another replica hears the engine, too
        # Messages left in the socket by a lost connection do not bring it back.
        if connection != sequencer.settled_connection and subscription.stands(connection):
            sequencer.through(connection)
        sequencer.receive(arrival)

    def _unreadable(self, subscription: Subscription, message: Message, reason: str) -> None:
        """Handles a message whose payload cannot be decoded: its events are lost."""
        streams = [one for one in self._of_topic.get((subscription, message.topic), ()) if not one.removed]
        if len(streams) == 1 and streams[0].sequencer.expects(message.sequence):
            rank = streams[0].rank.number
            streams[0].sequencer.receive(unreadable_arrival(message.sequence, message.payload, rank, reason))
            return
        self._observer.unreadable(subscription, message, reason)
        for stream in streams:
            stream.sequencer.lose_unreadable(message.sequence, reason)

    def expect(self, subscription: Subscription, topic: bytes, rank: Rank) -> None:
        """Creates the stream of a rank that an endpoint spoke for before this process, if it still would."""
        with suppress(WireError):
            source = read_topic(topic, subscription.endpoint, self._default_model)
            if source == (rank.pod, rank.model):
                self._find(subscription, topic, rank.number, None)

    def connected(self, subscription: Subscription) -> None:
        endpoint = subscription.endpoint
        if endpoint.binds:
            return  # the next message identifies the connection
        streams = [stream for stream in self if stream.subscription is subscription]
        for stream in streams:
            stream.sequencer.on_connected()
        if not streams and endpoint.replay is not None:
            self._client.introduce(endpoint.replay, partial(self._introduced, subscription), endpoint.curve)

    def _introduced(self, subscription: Subscription, replayed: Replayed) -> None:
        topic = replayed.topic
        if topic is None and subscription.endpoint.pod is not None:
            topic = b""
        # An introduction that outlasts its connection would create a stream that is never marked as lost.
        if topic is None or not subscription.wants(topic) or not subscription.connections:
            return
        with suppress(WireError):
            rank = receive_arrival(replayed.sequence, replayed.payload).batch.rank
            stream = self._find(subscription, topic, rank, None)
            if stream is not None and stream.sequencer.connected:
                stream.sequencer.request_replay()
            elif stream is not None:
                stream.sequencer.on_connected()  # restored from a snapshot, where another endpoint spoke for it

    def disconnected(self, subscription: Subscription, connection: int) -> None:
        for stream in self:
            if stream.subscription is subscription:
                stream.sequencer.on_disconnected(connection)
                if not stream.sequencer.connected:
                    self._hand_over(stream)
        if not subscription.connections:
            self._withdraw_all(subscription)

    def drop(self, subscription: Subscription) -> None:
        """Drops the streams and the claims of an endpoint."""
        for stream in self:
            if stream.subscription is subscription:
                self._forget(stream)
        self._withdraw_all(subscription)

    def _withdraw_all(self, subscription: Subscription) -> None:
        for rank in [rank for rank, claims in self._claims.items() if subscription in claims]:
            self._withdraw(rank, subscription)

    def tick(self) -> None:
        """Call it about once per second."""
        for stream in self:
            stream.sequencer.tick()
            if stream.sequencer.forgotten:
                self._remove(stream)

    def forget(self, pod: str) -> bool:
        """Drops a pod's streams; False if it is unknown. Its next message adds it again."""
        streams = [stream for stream in self if stream.rank.pod == pod]
        for stream in streams:
            self._forget(stream)
        return bool(streams)

    def _find(
        self,
        subscription: Subscription,
        topic: bytes,
        number: int,
        peer: str | None,
        connection: int | None = None,
    ) -> Stream[SinkT] | None:
        """The stream of a rank; None if another endpoint speaks for it. Raises WireError for too many ranks."""
        if len(topic) > self._limits.topic_bytes:
            raise WireError("a topic that is too long")
        source = read_topic(topic, subscription.endpoint, self._default_model, peer)
        if not subscription.endpoint.speaks_for(source.pod):
            raise WireError("a pod that pods= leaves out")
        rank = Rank(source.pod, source.model, number)
        key = rank, None if self._exclusive else subscription
        stream = self._streams.get(key)
        if stream is not None and stream.subscription is not subscription:
            if stream.sequencer.connected:
                self._refuse(stream, subscription, topic, peer)
                return None
            self._forget(stream)  # the rank moves here without its blocks
            stream = None
        if stream is None:
            if len(self._streams) >= self._limits.streams:
                self._make_room((subscription, connection))
            self._streams[key] = stream = self._make(rank, subscription, topic, (subscription, connection))
        stream.topic, stream.peer = topic, peer
        if len(self._heard) >= self._limits.topics:
            self._heard.clear()
            self._of_topic.clear()
        self._heard[subscription, topic, number, peer] = stream
        streams = [one for one in self._of_topic.get((subscription, topic), ()) if not one.removed]
        self._of_topic[subscription, topic] = [*streams, *([] if stream in streams else [stream])]
        return stream

    def _make_room(self, speaker: _Speaker) -> None:
        """Drops a stream of the connection with the most streams, so that invented names keep no other publisher out.

        A stream without blocks goes first. Raises WireError if only the speaker's own streams with blocks could go.
        """
        most = max(self._of_speaker, key=lambda one: len(self._of_speaker[one]))
        candidates = self._of_speaker[most]
        victim = next((stream for stream in islice(candidates, _SEARCHED) if not stream.sink.holds_blocks), None)
        if victim is None and (most == speaker or len(candidates) < 2):
            raise WireError("too many ranks")
        self._forget(victim or next(iter(candidates)))

    def _make(self, rank: Rank, subscription: Subscription, topic: bytes, speaker: _Speaker) -> Stream[SinkT]:
        endpoint = subscription.endpoint
        sink = self._make_sink(rank, topic, endpoint)
        stream: Stream[SinkT]

        def start_replay() -> None:
            of_rank = rank.pod, rank.number, stream.peer
            source = Source(endpoint.replay_of(*of_rank), endpoint.curve, endpoint.snapshot_of(*of_rank))
            if source.replay or source.snapshot:
                self._client.start(source, stream.sequencer, stream.read)
            else:
                stream.sequencer.replay_failed(UNKNOWN_HOST, final=True)

        sequencer = Sequencer(
            sink,
            start_replay=start_replay if endpoint.replay or endpoint.snapshot else None,
            has_replay=endpoint.replay is not None,
            has_snapshot=endpoint.snapshot is not None and self._rebuilds,
            max_waiting=self._limits.waiting,
            rebuilds=self._rebuilds,
            timing=self._timing,
        )
        stream = Stream(rank, subscription, topic, sink, sequencer, speaker)
        self._of_speaker.setdefault(speaker, {})[stream] = None
        self._created(stream)
        return stream

    def _refuse(self, stream: Stream[SinkT], subscription: Subscription, topic: bytes, peer: str | None) -> None:
        self._claims.setdefault(stream.rank, {})[subscription] = topic, peer
        self._observer.refused(stream, subscription, peer)

    def _withdraw(self, rank: Rank, subscription: Subscription) -> None:
        claims = self._claims.get(rank, {})
        claims.pop(subscription, None)
        if not claims:
            self._claims.pop(rank, None)

    def _hand_over(self, stream: Stream[SinkT]) -> None:
        """Moves the rank of a lost endpoint to a connected endpoint that claimed it, if any."""
        for subscription, (topic, peer) in list(self._claims.get(stream.rank, {}).items()):
            if subscription.connections:
                successor = self._find(subscription, topic, stream.rank.number, peer)
                self._withdraw(stream.rank, subscription)
                if successor is not None:
                    successor.sequencer.request_replay()
                return

    def _forget(self, stream: Stream[SinkT]) -> None:
        stream.sequencer.forget()
        self._remove(stream)

    def _remove(self, stream: Stream[SinkT]) -> None:
        stream.removed = True
        streams = self._of_speaker.get(stream.speaker, {})
        streams.pop(stream, None)
        if not streams:
            self._of_speaker.pop(stream.speaker, None)
        self._streams.pop((stream.rank, None if self._exclusive else stream.subscription), None)
