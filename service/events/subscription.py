"""The sockets of one endpoint: reads messages in turns of bounded length, and follows its connections."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from time import monotonic, time
from typing import Protocol, TypeAlias

import msgspec
import zmq
from zmq.utils.monitor import recv_monitor_message

from service.contract.endpoints import Endpoint
from service.events.access import Access
from service.events.endpoint_status import EndpointStatus
from service.events.messages import MALFORMED, Message, receive_from
from service.events.pace import Pace
from service.events.rate_limited_log import RateLimitedLog
from service.events.resolver import Resolver, is_literal, prepare

logger = logging.getLogger(__name__)
_TURN_SECONDS = 0.002
_COLLECT_SECONDS = 0.001
"""Pause after a turn while messages come fast."""
_WITHOUT_CLOCK = 8
"""Messages read between two checks of the clock."""
_LONG_PAYLOAD = 16 * 1024
"""Bytes; the clock is checked after a longer one."""
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""A larger message ends its connection (ZMQ_MAXMSGSIZE). A batch of a million tokens has about 5 MB."""
_CONNECT_MILLISECONDS = 5_000
_HANDSHAKE_MILLISECONDS = 5_000
"""Of a connecting socket: whoever accepts the connection and says nothing is no publisher."""
_AGAIN_SECONDS = 1.0
"""Interval between two attempts where libzmq makes none itself."""
_RESOLVE_SECONDS = 2.0
"""Interval between two lookups of the host name while the endpoint is not connected."""
_MADE = zmq.Event.CONNECTED | zmq.Event.ACCEPTED
_READY = zmq.Event.HANDSHAKE_SUCCEEDED
_ENDED = zmq.Event.DISCONNECTED
_REJECTED = zmq.Event.HANDSHAKE_FAILED_NO_DETAIL | zmq.Event.HANDSHAKE_FAILED_PROTOCOL | zmq.Event.HANDSHAKE_FAILED_AUTH
_FAILED = zmq.Event.CLOSED
"""On a connecting socket: a connection attempt failed."""
_EVENTS, _READABLE = int(zmq.EVENTS), int(zmq.POLLIN)  # to combine members of enumerations takes microseconds
_BROKEN_OFF = "%s: its connection ended with a message of more than %d MiB, or with bytes that are none of ZeroMQ's"
_RETRIED = zmq.Event.CONNECT_RETRIED
"""On a connecting socket: libzmq will try again by itself."""

_REMEDIES = {
    errno.EADDRINUSE: "; end the program that has it, or choose another port",
    errno.EADDRNOTAVAIL: "; name an address of this machine, or * for all of them",
    errno.EMFILE: "; raise the limit of open files (ulimit -n)",
    errno.ENODEV: "; name an address of this machine, or * for all of them",
}

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"


def new_context() -> Context:
    """A context for any number of endpoints; that of libzmq's default has sockets for 341."""
    context: Context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, context.get(zmq.SOCKET_LIMIT))
    return context


class Listener(Protocol):
    """Receives the messages and connection events of a subscription. Connections are numbered as in Message."""

    def received(self, subscription: Subscription, message: Message) -> None: ...

    def malformed(self, subscription: Subscription) -> None: ...

    def connected(self, subscription: Subscription) -> None: ...

    def disconnected(self, subscription: Subscription, connection: int) -> None: ...


class SubscriptionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Options that the subscriptions of one listener share.

    `turns` limits how many endpoints are read, a few milliseconds each, before the event loop runs other tasks. Up to
    `high_water` messages per connection wait in the socket. `pause` is the delay in seconds after an exception of the
    listener. Until `begin` is set, messages wait in the socket. `turned` is called after each turn that read messages.
    """

    context: Context
    topic: str
    listener: Listener
    turns: asyncio.Semaphore
    access: Access
    resolver: Resolver = msgspec.field(default_factory=Resolver)
    high_water: int = 100_000
    pause: float = 1.0
    begin: asyncio.Event | None = None
    turned: Callable[[], None] = lambda: None


class Subscription:
    """Subscribes to one endpoint. `connections` are the open ones."""

    def __init__(self, endpoint: Endpoint, options: SubscriptionOptions) -> None:
        self.endpoint = endpoint
        self.status = EndpointStatus(endpoint, options.topic)
        self.connections = self.status.connections
        self._binds = endpoint.binds
        self.ended: set[int] = set()
        """Connections of a bound socket that have ended; messages of theirs may still come."""
        # An endpoint with a name of its own has topics without names, so it cannot be filtered by topic.
        self._topic = b"" if endpoint.pod or endpoint.model else options.topic.encode()
        self._options = options
        self._listener = options.listener
        self._attempt_failed = asyncio.Event()
        self._probing = False
        self._is_ready = False
        """Whether the handshake of the last connection has succeeded."""
        self._is_given_up = False
        """Whether libzmq makes no further attempt: its peer broke the protocol, as with a message that is too long."""
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def problem(self) -> str | None:
        """Why the socket is not open; None when it is."""
        return self.status.closed

    def open(self) -> None:
        """Opens the socket and starts to receive; a failure becomes `problem`, and a later call retries."""
        if self._socket is not None:
            return
        address = self.endpoint.address
        socket = monitor = None
        try:
            socket = self._options.context.socket(zmq.SUB)
            monitor = self._prepare(socket)
            self._options.access.secure(socket, self.endpoint)
            if self.endpoint.binds:
                _bind(socket, address)
            elif is_literal(address):
                prepare(socket, address)
                socket.connect(address)
        except (zmq.ZMQError, OSError, ValueError) as error:
            if socket is not None:
                with suppress(zmq.ZMQError):
                    socket.disable_monitor()
                socket.close()
            if monitor is not None:
                monitor.close()
            verb = "bind" if self.endpoint.binds else "connect to"
            remedy = _REMEDIES.get(getattr(error, "errno", 0), "")
            self.status.closed = f"cannot {verb} {address}: {_reason(error)}{remedy}"
            return
        self._socket, self._monitor, self.status.closed = socket, monitor, None
        self._tasks.append(asyncio.create_task(self._run(socket, monitor), name=f"events of {address}"))
        if not self._binds:
            self._tasks.append(asyncio.create_task(self._connect_again(socket), name=f"attempts at {address}"))
        if not is_literal(address):
            self._tasks.append(asyncio.create_task(self._follow_name(socket), name=f"addresses of {address}"))

    def _prepare(self, socket: zmq.Socket[bytes]) -> zmq.Socket[bytes]:
        """Sets the options of a new socket; gives its monitor. Raises ZMQError."""
        socket.linger = 0
        socket.rcvhwm = self._options.high_water
        # Without heartbeats, a connection stays open for hours after its peer vanished.
        socket.heartbeat_ivl, socket.heartbeat_timeout = 10_000, 30_000
        socket.reconnect_ivl, socket.reconnect_ivl_max = 100, 2_000
        socket.maxmsgsize = MAX_MESSAGE_BYTES
        socket.connect_timeout = _CONNECT_MILLISECONDS
        socket.subscribe(self._topic)
        if not self._binds:
            socket.handshake_ivl = _HANDSHAKE_MILLISECONDS
        return socket.get_monitor_socket(_MADE | _READY | _ENDED | _FAILED | _REJECTED | _RETRIED)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close()
            self._socket.close()
            self._socket = self._monitor = None

    async def _connect_again(self, socket: zmq.Socket[bytes]) -> None:
        """Connects where libzmq has given up, and after failed handshakes, with the keys as they are then."""
        log = RateLimitedLog(logger)
        while True:
            await asyncio.sleep(_AGAIN_SECONDS)
            if not self.connections and (self._is_given_up or self.status.rejected):
                if not self.status.rejected:
                    log.log(logging.WARNING, None, _BROKEN_OFF, self.endpoint.address, MAX_MESSAGE_BYTES >> 20)
                with suppress(zmq.ZMQError, OSError, ValueError):
                    self._options.access.secure(socket, self.endpoint)
                    address = socket.getsockopt_string(zmq.LAST_ENDPOINT)
                    with suppress(zmq.ZMQError):
                        socket.disconnect(address)
                    socket.connect(address)

    @property
    def is_answered(self) -> bool:
        """Whether a connection was made or refused; only until `begin`, since what tells it is not read before."""
        return self._monitor is None or _has_messages(self._monitor)

    def wants(self, topic: bytes) -> bool:
        """Whether the subscription matches this topic."""
        return topic.startswith(self._topic)

    def stands(self, connection: int | None) -> bool:
        """Whether the connection of a message is still open, as far as is known."""
        return connection not in self.ended if self._binds else bool(self.connections)

    def join(self, connection: int) -> None:
        """Notes a connection that another replica has to an engine; its number is below -1."""
        self.connections.add(connection)
        self.ended.discard(connection)

    def leave(self, connection: int) -> None:
        """Notes the end of such a connection."""
        if connection in self.connections:
            self.connections.remove(connection)
            self.ended.add(connection)
            self._listener.disconnected(self, connection)

    @property
    def address(self) -> str:
        """The address of the socket, with the port that the system chose once it is open."""
        if self._socket is None or not self.endpoint.binds:
            return self.endpoint.address
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def _follow_name(self, socket: zmq.Socket[bytes]) -> None:
        """Connects to an address of the host name, and to the next one when it refuses."""
        status = self.status
        connected_to: str | None = None
        while True:
            if not self.connections:
                status.resolving = True
                try:
                    found = await self._options.resolver.resolve(self.endpoint.address)
                except OSError as error:
                    status.unresolved = str(error)
                else:
                    status.unresolved = None
                    if not self.connections and found and (connected_to not in found or self._attempt_failed.is_set()):
                        after = found.index(connected_to) + 1 if connected_to and connected_to in found else 0
                        connected_to = _reconnect(socket, connected_to, found[after % len(found)])
                finally:
                    status.resolving = False
                self._attempt_failed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_RESOLVE_SECONDS):
                    await self._attempt_failed.wait()

    def probe(self) -> None:
        """Receives all topics until the next message, to find topics that the prefix excludes."""
        if self._socket is not None and self._topic and not self._probing:
            self._probing = True
            self._socket.subscribe(b"")

    def _end_probe(self) -> None:
        if self._probing and self._socket is not None:
            self._probing = False
            self._socket.unsubscribe(b"")

    async def _run(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
        if self._options.begin is not None:
            await self._options.begin.wait()
        receive = receive_from(socket, with_origin=self._binds)
        pace = Pace()
        is_empty = False
        with closing(_Signals(monitor, socket)) as signals:
            while True:
                if is_empty:
                    await signals.wait()
                try:
                    async with self._options.turns:
                        signals.clear()
                        # The end of a connection is handled before messages of the next one.
                        while _has_messages(monitor):
                            self._monitored(monitor)
                        count, is_empty = self._drain(receive)
                        is_fast = pace.is_fast(count)
                        if count > 1 or not is_empty:
                            await asyncio.sleep(0)
                    if is_fast and is_empty:
                        await asyncio.sleep(_COLLECT_SECONDS)
                except Exception:  # no exception may silence an endpoint
                    is_empty = False
                    logger.exception("What came from %s could not be taken", self.endpoint.address)
                    await asyncio.sleep(self._options.pause)

    def _monitored(self, monitor: zmq.Socket[bytes]) -> None:
        event = recv_monitor_message(monitor)
        if event["event"] & _REJECTED:
            self.status.rejected = not self._binds
        elif event["event"] == _READY:
            self._is_ready, self.status.rejected = True, False
            self._listener.connected(self)
        elif event["event"] == _FAILED:
            self.status.refused, self.status.rejected = True, False
            self._attempt_failed.set()
        elif event["event"] == _RETRIED:
            self._is_given_up = False
        elif event["event"] & _MADE:
            self.connections.add(event["value"])
            self._is_ready = self._is_given_up = self.status.refused = False
            self.ended.discard(event["value"])
        elif event["value"] in self.connections:
            self.connections.remove(event["value"])
            self.ended.add(event["value"])
            if not self._binds:
                self._is_given_up = True  # unless libzmq says next that it tries again
                self.status.rejected |= not self._is_ready
            self._listener.disconnected(self, event["value"])

    def _drain(self, receive: Callable[[], Message | None]) -> tuple[int, bool]:
        """Reads messages for a turn; gives their number, and whether the queue is empty."""
        ends = monotonic() + _TURN_SECONDS
        received = self._listener.received if not self._probing else self._received_by_probe
        count = 0
        try:
            while monotonic() < ends:
                for _ in range(_WITHOUT_CLOCK):
                    message = receive()
                    if message is None:
                        return count, True
                    if message is MALFORMED:
                        self._listener.malformed(self)
                        continue
                    count += 1
                    received(self, message)
                    if len(message.payload) > _LONG_PAYLOAD:
                        break
        finally:
            if count:
                self.status.messages += count
                self.status.last_message_at = time()
                self._options.turned()
        return count, False

    def _received_by_probe(self, subscription: Subscription, message: Message) -> None:
        self._end_probe()
        if self.wants(message.topic):
            self._listener.received(subscription, message)
        else:
            self.status.messages -= 1
            self.status.left_out(message.topic)


def tell_turned_away(subscriptions: Iterable[Subscription], endpoint: Endpoint, peer: str, reason: str) -> None:
    """Records in the status of an endpoint a peer that may not connect."""
    for subscription in subscriptions:
        if subscription.endpoint == endpoint:
            subscription.status.turned_away = f"{peer} ({reason})"


def _reason(error: zmq.ZMQError | OSError | ValueError) -> str:
    if isinstance(error, zmq.ZMQError):
        return error.strerror or str(error)
    if not isinstance(error, OSError):
        return str(error)
    return f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)


def _bind(socket: zmq.Socket[bytes], address: str) -> None:
    """Binds to IPv4 and IPv6 if the address is a wildcard (`*`) and the host has both."""
    prepare(socket, address)
    try:
        socket.bind(address)
    except zmq.ZMQError:
        if not socket.ipv6 or "[" in address:
            raise
        socket.ipv6 = False
        socket.bind(address)


def _reconnect(socket: zmq.Socket[bytes], former: str | None, address: str) -> str:
    if former != address:
        if former is not None:
            socket.disconnect(former)
        prepare(socket, address)
        socket.connect(address)
    return address


def _has_messages(socket: zmq.Socket[bytes]) -> bool:
    return bool(socket.getsockopt(_EVENTS) & _READABLE)  # type: ignore[operator]


class _Signals:
    """Waits for activity on sockets whose messages were all read.

    Much faster than the poller of zmq.asyncio, which would dominate the cost of a single message.
    """

    def __init__(self, *sockets: zmq.Socket[bytes]) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.Future[None] | None = None
        self._signalled = False
        self._sockets = {socket.fileno(): socket for socket in sockets}
        for descriptor, socket in self._sockets.items():
            self._loop.add_reader(descriptor, self._wake, socket)

    async def wait(self) -> None:
        """Waits for activity since `clear`."""
        if not self._signalled:
            self._waiting = self._loop.create_future()
            await self._waiting

    def clear(self) -> None:
        """To be called before the sockets are read."""
        self._signalled = False

    def close(self) -> None:
        for descriptor in self._sockets:
            self._loop.remove_reader(descriptor)

    def _wake(self, socket: zmq.Socket[bytes]) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
        else:
            self._signalled = True
            _has_messages(socket)  # ends the signal, which else wakes the loop until the next turn
