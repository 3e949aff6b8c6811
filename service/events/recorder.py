"""Records events from engines in order, and missed ones from their replay sockets."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import zmq

from service.contract.endpoints import Endpoint
from service.events.access import Access
from service.events.arrival import Arrival
from service.events.curve import KeyPair
from service.events.messages import Message
from service.events.recording import Recorded, recorded_pod
from service.events.replay_socket import ReplayClient
from service.events.resolver import Resolver
from service.events.sequencer import Notice
from service.events.streams import Stream, Streams
from service.events.subscription import Subscription, SubscriptionOptions, new_context, tell_turned_away
from service.events.topic import read_topic
from service.index.base import Rank


class RecorderStatistics(msgspec.Struct):
    """Counts of recorded messages by pod, of replayed messages, and of messages that could not be obtained."""

    messages: Counter[str] = msgspec.field(default_factory=Counter)
    replayed: int = 0
    missing: int = 0
    restarts: int = 0
    unreadable: int = 0
    """Recorded messages without a readable batch, and received frames that are not a message."""
    replay_failures: int = 0


class Recorder:
    """Subscribes as the service does, and gives `write` each message once, in the order of its publisher.

    Asks replay sockets for earlier and missed batches, and counts those that no replay brings. `model` is the model of
    topics without a model name; `own_keys` are those of endpoints with `curve=`. `ended` is done when `write` returns
    False (enough recorded) or raises OSError.
    """

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        topic: str,
        model: str,
        write: Callable[[Recorded], bool],
        own_keys: KeyPair | None = None,
    ) -> None:
        self.statistics = RecorderStatistics()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._model = model
        self._write = write
        self._context: zmq.Context[zmq.Socket[bytes]] = new_context()
        resolver = Resolver()
        self._client = ReplayClient(resolver, own=own_keys)
        self._streams = Streams(self._sink, self, self._client, default_model=model, rebuilds=False, exclusive=False)
        self._access = Access(self._context, own_keys, self._turned_away)
        options = SubscriptionOptions(
            context=self._context,
            topic=topic,
            listener=self,
            turns=asyncio.Semaphore(),
            access=self._access,
            resolver=resolver,
        )
        self._subscriptions = [Subscription(endpoint, options) for endpoint in endpoints]

    def _sink(self, rank: Rank, topic: bytes, _: Endpoint) -> _RecordingSink:
        return _RecordingSink(recorded_pod(rank), topic, self)

    def start(self) -> None:
        """Opens the sockets; failures are in `problems`."""
        for subscription in self._subscriptions:
            subscription.open()

    def problems(self) -> list[str]:
        return [subscription.problem for subscription in self._subscriptions if subscription.problem]

    def silent(self) -> list[str]:
        """A sentence with the remedy for each endpoint that has sent nothing."""
        silent = (one.status for one in self._subscriptions if not one.status.messages)
        return [status.problem for status in silent if status.problem]

    async def close(self) -> None:
        await self._client.close()
        await self._access.close()
        for subscription in self._subscriptions:
            await subscription.close()
        self._context.destroy(linger=0)

    def record(self, message: Recorded) -> None:
        """Writes a message, unless recording has ended."""
        if self.ended.done():
            return
        try:
            more = self._write(message)
        except OSError as error:
            self.ended.set_exception(error)
            return
        self.statistics.messages[message.pod] += 1
        if not more:
            self.ended.set_result(None)

    # Listener of the subscriptions

    def received(self, subscription: Subscription, message: Message) -> None:
        if not self.ended.done():
            self._streams.received(subscription, message)

    def malformed(self, subscription: Subscription) -> None:
        self.statistics.unreadable += 1

    def connected(self, subscription: Subscription) -> None:
        self._streams.connected(subscription)

    def disconnected(self, subscription: Subscription, connection: int) -> None:
        self._streams.disconnected(subscription, connection)

    def _turned_away(self, endpoint: Endpoint, peer: str, reason: str) -> None:
        tell_turned_away(self._subscriptions, endpoint, peer, reason)

    # Observer of the streams

    def unreadable(self, subscription: Subscription, message: Message, reason: str) -> None:
        self.statistics.unreadable += 1
        pod = read_topic(message.topic, subscription.endpoint, self._model, message.peer).pod
        self.record(Recorded(pod, message.topic, message.sequence, message.payload))

    def refused(self, stream: Stream[Any], subscription: Subscription, peer: str | None) -> None: ...


class _RecordingSink:
    """Records the batches of one stream. Implements sequencer.Sink."""

    holds_blocks = True

    def __init__(self, pod: str, topic: bytes, recorder: Recorder) -> None:
        self._pod = pod
        self._topic = topic
        self._recorder = recorder

    def apply(self, arrival: Arrival) -> bool:
        batch = arrival.batch
        if batch.unread and not batch.events:
            self._recorder.statistics.unreadable += 1
        self._recorder.record(Recorded(self._pod, self._topic, arrival.sequence, arrival.payload))
        return False

    def apply_packed(self, payload: bytes, since: float) -> float | None:
        return None

    def report(self, notice: Notice, count: int, reason: str) -> None:
        statistics = self._recorder.statistics
        match notice:
            case Notice.LOST:
                statistics.missing += count
            case Notice.RESTARTED:
                statistics.restarts += count
            case Notice.REPLAYED:
                statistics.replayed += count
            case Notice.REPLAY_FAILED:
                statistics.replay_failures += count

    # A recording also keeps batches that an index drops.

    def clear(self) -> None: ...

    def hide(self) -> None: ...

    def unhide(self) -> None: ...

    def forget(self) -> None: ...
