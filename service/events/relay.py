"""Bound endpoints of a machine with several workers: one process binds them, and hands on all that comes.

An address can be bound once. The relay is the subscription of that process; what it is told as a listener goes, in the
same order, over a Unix socket to the workers that want the endpoint, where `RelayedSubscription` tells it to the pool.
So the rules of sequences see what they would see in one process. A worker that does not read is disconnected, and has
missed messages when it is back: it asks for a replay, as after any gap.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import monotonic, time
from typing import Final, TypeAlias

import msgspec
import zmq

from service.contract.endpoints import Endpoint, parse_endpoints
from service.events.access import Access
from service.events.curve import KeyPair
from service.events.endpoint_status import EndpointState
from service.events.messages import Message
from service.events.subscription import Subscription, SubscriptionOptions, new_context
from service.replicas.shared.framing import End, framed, keep_connected

_WATCH_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 60.0


class Want(msgspec.Struct, array_like=True, tag=1):
    """To the relay: bind an endpoint, given as in ZMQ_ENDPOINT, and tell of it."""

    endpoint: str


class Leave(msgspec.Struct, array_like=True, tag=2):
    address: str


class State(msgspec.Struct, array_like=True, tag=3):
    """The state of an endpoint, whenever it changes. Messages of ended connections may still come."""

    address: str
    bound: str
    """The address with the port that the system chose."""
    connections: list[int]
    ended: list[int]
    closed: str | None
    topics_left_out: list[str]


class Handshake(msgspec.Struct, array_like=True, tag=4):
    """A connection is ready."""

    address: str


class Received(msgspec.Struct, array_like=True, tag=5):
    """`message` None is one that has other frames than a message."""

    address: str
    message: tuple[bytes, int, bytes, int | None, str | None] | None


class TurnedAway(msgspec.Struct, array_like=True, tag=6):
    address: str
    peer: str
    reason: str


_ToWorker: TypeAlias = State | Handshake | Received
_Word: TypeAlias = Want | Leave | State | Handshake | Received | TurnedAway
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Word).decode


def _sent(word: _Word) -> bytes:
    return framed(_encode(word))


class Relay:
    """Binds endpoints that workers want, until none wants them any more. Implements subscription.Listener."""

    def __init__(self, *, topic: str, concurrency: int, high_water: int, own_keys: KeyPair | None = None) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = new_context()
        self._access = Access(self._context, own_keys, self._turned_away)
        self._options = SubscriptionOptions(
            context=self._context,
            topic=topic,
            listener=self,
            turns=asyncio.Semaphore(concurrency),
            access=self._access,
            high_water=high_water,
        )
        self._subscriptions: dict[str, Subscription] = {}
        self._workers: dict[str, set[End]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._watching: asyncio.Task[None] | None = None
        self._ends: set[End] = set()

    async def start(self, path: Path) -> None:
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: End(self._heard, begun=self._ends.add, ended=self._ended), str(path)
        )
        self._watching = asyncio.create_task(self._watch(), name="bound endpoints")

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for end in list(self._ends):
            end.abort()
        for subscription in self._subscriptions.values():
            await subscription.close()
        await asyncio.gather(*self._closing)
        await self._access.close()
        self._context.destroy(linger=0)

    # What workers say

    def _heard(self, end: End, body: bytes) -> None:
        match _decode(body):
            case Want(text):
                (endpoint,) = parse_endpoints(text)
                self._workers.setdefault(endpoint.address, set()).add(end)
                subscription = self._subscriptions.get(endpoint.address)
                if subscription is None:
                    subscription = self._subscriptions[endpoint.address] = Subscription(endpoint, self._options)
                    subscription.open()
                self._send(end, _state(subscription))
                if subscription.connections:
                    self._send(end, Handshake(endpoint.address))
            case Leave(address):
                workers = self._workers.get(address, set())
                workers.discard(end)
                if not workers and (left := self._subscriptions.pop(address, None)) is not None:
                    closing = asyncio.create_task(left.close())
                    self._closing.add(closing)
                    closing.add_done_callback(self._closing.discard)
            case _:
                pass

    def _ended(self, end: End) -> None:
        """Forgets a worker; its endpoints stay for the one that is started instead."""
        self._ends.discard(end)
        for workers in self._workers.values():
            workers.discard(end)

    # Listener of the subscriptions

    def received(self, subscription: Subscription, message: Message) -> None:
        one = (message.topic, message.sequence, message.payload, message.connection, message.peer)
        self._tell(Received(subscription.endpoint.address, one))

    def malformed(self, subscription: Subscription) -> None:
        self._tell(Received(subscription.endpoint.address, None))

    def connected(self, subscription: Subscription) -> None:
        self._tell(_state(subscription))
        self._tell(Handshake(subscription.endpoint.address))

    def disconnected(self, subscription: Subscription, connection: int) -> None:
        self._tell(_state(subscription))

    def _turned_away(self, endpoint: Endpoint, peer: str, reason: str) -> None:
        self._tell(TurnedAway(endpoint.address, peer, reason))

    def _tell(self, word: State | Handshake | Received | TurnedAway) -> None:
        sent = _sent(word)
        for end in list(self._workers.get(word.address, ())):
            if not end.send(sent):
                end.abort()

    def _send(self, end: End, word: _Word) -> None:
        end.send(_sent(word))

    async def _watch(self) -> None:
        """Opens what could not be opened, and tells of changes that no connection tells of."""
        told: dict[str, State] = {}
        probed_at = monotonic()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            probes = monotonic() - probed_at > _PROBE_SECONDS
            probed_at = monotonic() if probes else probed_at
            for address, subscription in self._subscriptions.items():
                subscription.open()
                if probes and subscription.status.state is EndpointState.CONNECTED:
                    subscription.probe()
                if told.get(address) != (state := _state(subscription)):
                    told[address] = state
                    self._tell(state)


def _state(subscription: Subscription) -> State:
    status = subscription.status
    return State(
        subscription.endpoint.address,
        subscription.address,
        sorted(subscription.connections),
        sorted(subscription.ended),
        status.closed,
        list(status.topics_left_out),
    )


class RelayedSubscription(Subscription):
    """A worker's subscription to a bound endpoint: tells its listener what the relay tells."""

    def __init__(self, relay: Relayed, endpoint: Endpoint, options: SubscriptionOptions) -> None:
        super().__init__(endpoint, options)
        self._relay = relay
        self._bound = self.endpoint.address
        self.status.closed = None  # the relay says so if it cannot be bound
        self._early: deque[_ToWorker] = deque()
        """Messages that arrived before the pool takes any."""

    def open(self) -> None:
        """Asks the relay for the endpoint, once."""
        if not self._tasks:
            self._tasks.append(asyncio.create_task(self._take_early(), name=f"events of {self.endpoint.address}"))
        self._relay.want(self)

    async def close(self) -> None:
        self._relay.leave(self)
        await super().close()

    def probe(self) -> None:
        """Does nothing: the relay probes."""

    @property
    def address(self) -> str:
        return self._bound

    def heard(self, word: _ToWorker) -> None:
        if self._early or not self._has_begun():
            self._early.append(word)
        else:
            self._take(word)

    def _has_begun(self) -> bool:
        return (begin := self._options.begin) is None or begin.is_set()

    async def _take_early(self) -> None:
        if self._options.begin is not None:
            await self._options.begin.wait()
        while self._early:
            self._take(self._early.popleft())
            await asyncio.sleep(0)

    def _take(self, word: _ToWorker) -> None:
        match word:
            case State():
                self._bound = word.bound
                self.status.closed, self.status.topics_left_out = word.closed, word.topics_left_out
                self._set_connections(set(word.connections), set(word.ended))
            case Handshake():
                self._listener.connected(self)
            case Received(_, None):
                self._listener.malformed(self)
            case Received(_, message):
                assert message is not None  # noqa: S101 - the case before
                self.status.messages += 1
                self.status.last_message_at = time()
                self._listener.received(self, Message(*message))
                self._options.turned()

    def lost(self) -> None:
        """The relay is gone, and with it all connections."""
        self.status.closed = "the process that binds it does not answer"
        self._set_connections(set(), self.ended | self.connections)

    def _set_connections(self, connections: set[int], ended: set[int]) -> None:
        self.ended = ended
        gone = self.connections - connections
        self.connections |= connections
        for connection in sorted(gone):
            self.connections.remove(connection)
            self._listener.disconnected(self, connection)


class Relayed:
    """A worker's end of the relay."""

    def __init__(self, path: Path) -> None:
        self.turned_away: Callable[[Endpoint, str, str], None] = lambda endpoint, peer, reason: None
        self._path = path
        self._subscriptions: dict[str, RelayedSubscription] = {}
        self._end: End | None = None
        self._connecting: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._connecting = asyncio.create_task(keep_connected(self._path, self._new_end), name="bound endpoints")

    async def close(self) -> None:
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.gather(self._connecting, return_exceptions=True)
        if self._end is not None:
            self._end.close()

    def want(self, subscription: RelayedSubscription) -> None:
        address = subscription.endpoint.address
        if address not in self._subscriptions:
            self._subscriptions[address] = subscription
            self._send(Want(str(subscription.endpoint)))

    def leave(self, subscription: RelayedSubscription) -> None:
        if self._subscriptions.pop(subscription.endpoint.address, None) is not None:
            self._send(Leave(subscription.endpoint.address))

    def _new_end(self) -> End:
        return End(self._heard, begun=self._begun, ended=self._ended)

    def _begun(self, end: End) -> None:
        self._end = end
        for subscription in self._subscriptions.values():
            self._send(Want(str(subscription.endpoint)))

    def _ended(self, end: End) -> None:
        self._end = None
        for subscription in self._subscriptions.values():
            subscription.lost()

    def _heard(self, end: End, body: bytes) -> None:
        word = _decode(body)
        if isinstance(word, Want | Leave):
            return
        subscription = self._subscriptions.get(word.address)
        if subscription is None:
            return
        if isinstance(word, TurnedAway):
            self.turned_away(subscription.endpoint, word.peer, word.reason)
        else:
            subscription.heard(word)

    def _send(self, word: Want | Leave) -> None:
        if self._end is not None:
            self._end.send(_sent(word))
