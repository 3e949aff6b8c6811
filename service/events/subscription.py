"""One endpoint's sockets: messages out of the subscription in bounded slices, and what its monitor says."""

from __future__ import annotations

import asyncio
import logging
from typing import NamedTuple, Protocol, TypeAlias

import zmq
import zmq.asyncio
from zmq.utils.monitor import recv_monitor_message

from service.events.endpoint import Endpoint

_log = logging.getLogger(__name__)
_SLICE = 256
_AFTER_FAILURE = 1.0
_HIGH_WATER = 100_000
_MADE = zmq.Event.CONNECTED | zmq.Event.ACCEPTED
_READY = zmq.Event.HANDSHAKE_SUCCEEDED
_ENDED = zmq.Event.DISCONNECTED

Context: TypeAlias = "zmq.Context[zmq.Socket[bytes]]"


class Message(NamedTuple):
    """One published message. Of a bound socket's several connections, `connection` says which, `peer` its host."""

    topic: bytes
    sequence: int
    payload: bytes
    connection: int | None = None
    peer: str | None = None


class Listener(Protocol):
    """Who is told what happens at a subscription. Connections are numbered, as in Message."""

    def received(self, subscription: Subscription, message: Message) -> None: ...

    async def wants_more(self) -> None:
        """Waits until more messages are wanted; what the sockets cannot keep meanwhile shows as a gap."""
        ...

    def malformed(self, subscription: Subscription) -> None: ...

    def connected(self, subscription: Subscription) -> None: ...

    def disconnected(self, subscription: Subscription, connection: int) -> None: ...


class Subscription:
    """Subscribes to one endpoint. `connections` are those that stand at the moment."""

    def __init__(self, context: Context, endpoint: Endpoint, topic: str, listener: Listener) -> None:
        self.endpoint = endpoint
        self.connections: set[int] = set()
        self._binds = endpoint.binds
        self._ended: set[int] = set()
        # An endpoint with a name of its own has it because its topic says nothing, so no topic can be asked for.
        self._topic = b"" if endpoint.pod or endpoint.model else topic.encode()
        self._context = context
        self._listener = listener
        self._problem: str | None = "is not opened yet"
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def problem(self) -> str | None:
        """Why the socket is not up; None when it is."""
        return self._problem if self._socket is None else None

    def open(self) -> None:
        """Binds or connects and starts to receive; what goes wrong becomes `problem`, and calling again tries again."""
        if self._socket is not None:
            return
        socket = self._context.socket(zmq.SUB)
        socket.linger = 0
        socket.rcvhwm = _HIGH_WATER
        # Without heartbeats a connection whose other end went without a word stands for hours.
        socket.heartbeat_ivl, socket.heartbeat_timeout = 10_000, 30_000
        socket.reconnect_ivl, socket.reconnect_ivl_max = 100, 2_000
        socket.subscribe(self._topic)
        monitor = socket.get_monitor_socket(_MADE | _READY | _ENDED)
        try:
            if self.endpoint.binds:
                socket.bind(self.endpoint.address)
            else:
                socket.connect(self.endpoint.address)
        except zmq.ZMQError as error:
            socket.disable_monitor()
            monitor.close()
            socket.close()
            verb = "bind" if self.endpoint.binds else "connect to"
            self._problem = f"cannot {verb} {self.endpoint.address}: {error.strerror}"
            return
        self._socket, self._monitor = socket, monitor
        self._task = asyncio.create_task(self._run(socket, monitor), name=f"events of {self.endpoint.address}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._socket is not None and self._monitor is not None:
            self._socket.disable_monitor()
            self._monitor.close()
            self._socket.close()
            self._socket = self._monitor = None

    def wants(self, topic: bytes) -> bool:
        """Whether a message of this topic would have come through the subscription."""
        return topic.startswith(self._topic)

    def stands(self, connection: int | None) -> bool:
        """Whether the connection that a message came through is still there, as far as is known."""
        return connection not in self._ended if self._binds else bool(self.connections)

    @property
    def address(self) -> str:
        """Where the socket really is, once it is up: a port that the system chose is filled in."""
        if self._socket is None or not self.endpoint.binds:
            return self.endpoint.address
        return self._socket.getsockopt_string(zmq.LAST_ENDPOINT)

    async def _run(self, socket: zmq.Socket[bytes], monitor: zmq.Socket[bytes]) -> None:
        poller = zmq.asyncio.Poller()
        poller.register(socket, zmq.POLLIN)
        poller.register(monitor, zmq.POLLIN)
        while True:
            await poller.poll()
            try:
                # A connection's end is read before what came after it over its successor.
                while monitor.poll(0):
                    self._monitored(monitor)
                self._drain(socket)
            except Exception:  # whatever it is, an endpoint must not fall silent
                _log.exception("What came from %s could not be taken", self.endpoint.address)
                await asyncio.sleep(_AFTER_FAILURE)
            await self._listener.wants_more()
            await asyncio.sleep(0)

    def _monitored(self, monitor: zmq.Socket[bytes]) -> None:
        event = recv_monitor_message(monitor)
        if event["event"] == _READY:
            self._listener.connected(self)
        elif event["event"] & _MADE:
            self.connections.add(event["value"])
            self._ended.discard(event["value"])
        elif event["value"] in self.connections:
            self.connections.remove(event["value"])
            self._ended.add(event["value"])
            self._listener.disconnected(self, event["value"])

    def _drain(self, socket: zmq.Socket[bytes]) -> None:
        for _ in range(_SLICE):
            try:
                frames, connection, peer = _receive(socket, traced=self._binds)
            except zmq.Again:
                return
            if len(frames) != 3 or len(frames[1]) != 8:
                self._listener.malformed(self)
                continue
            topic, sequence, payload = frames
            self._listener.received(self, Message(topic, int.from_bytes(sequence, "big"), payload, connection, peer))


def _receive(socket: zmq.Socket[bytes], traced: bool) -> tuple[list[bytes], int | None, str | None]:
    """The frames of the next message and, if it is to be traced, where it came from. Raises zmq.Again."""
    frame = socket.recv(zmq.NOBLOCK, copy=False)
    connection, peer = _origin(frame) if traced else (None, None)
    frames = [frame.bytes]
    while frame.more:  # asking the socket for RCVMORE takes longer than a frame
        frame = socket.recv(zmq.NOBLOCK, copy=False)
        frames.append(frame.bytes)
    return frames, connection, peer


def _origin(frame: zmq.Frame) -> tuple[int | None, str | None]:
    """The connection a frame came through, as the monitor numbers them, and the host at its other end."""
    try:
        connection, peer = frame.get(zmq.MessageOption.SRCFD), frame.get("Peer-Address")
    except zmq.ZMQError:
        return None, None
    return (connection if isinstance(connection, int) else None), (str(peer) if peer else None)
