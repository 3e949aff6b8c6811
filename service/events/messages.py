"""The messages of event sockets: their frames, and what reads them without waiting."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib import import_module
from struct import Struct
from typing import Final

import msgspec
import zmq

from service.native.backend import COMPILED, Receiver

_NOBLOCK = int(zmq.NOBLOCK)
_unpack_sequence = Struct(">Q").unpack
_FUNCTIONS = (
    "zmq_msg_init",
    "zmq_msg_recv",
    "zmq_msg_data",
    "zmq_msg_size",
    "zmq_msg_more",
    "zmq_msg_get",
    "zmq_msg_gets",
    "zmq_msg_close",
    "zmq_errno",
)


class Message(msgspec.Struct, gc=False):
    """One published message. On a bound socket, `connection` is its connection and `peer` the host at the other end."""

    topic: bytes
    sequence: int
    payload: bytes
    connection: int | None = None
    peer: str | None = None


MALFORMED: Final = Message(b"", -1, b"")
"""Stands for a message of other frames."""


def receive_from(socket: zmq.Socket[bytes], *, with_origin: bool) -> Callable[[], Message | None]:
    """Gives a function that takes the next message of a socket: None if its queue is empty.

    Messages have their connection and peer if `with_origin`. The function is for as long as the socket is open.
    """
    functions = _functions()
    if functions is None:
        return _ByFrame(socket, with_origin=with_origin).receive
    return Receiver(
        functions,
        socket.underlying,
        with_origin=with_origin,
        message=Message,
        malformed=MALFORMED,
        error=zmq.ZMQError,
    ).receive


@cache
def _functions() -> tuple[int, ...] | None:
    """The addresses of the functions of libzmq that Receiver calls; None if nothing is compiled or one is not found."""
    if not COMPILED:
        return None
    try:
        libzmq = ctypes.CDLL(import_module("zmq.backend.cython._zmq").__file__)  # PyPy has another backend
        addresses = [ctypes.cast(getattr(libzmq, name), ctypes.c_void_p).value for name in _FUNCTIONS]
    except (ImportError, OSError, AttributeError):
        return None
    return tuple(address for address in addresses if address)


class _ByFrame:
    """As Receiver, by pyzmq's own functions."""

    def __init__(self, socket: zmq.Socket[bytes], *, with_origin: bool) -> None:
        self._recv = socket.recv  # looked up once: a socket looks for each attribute among its options, too
        self._with_origin = with_origin

    def receive(self) -> Message | None:
        try:
            frame = self._recv(_NOBLOCK, copy=False)
        except zmq.Again:
            return None
        connection, peer = _origin(frame) if self._with_origin else (None, None)
        frames = [frame.bytes]
        while frame.more:  # reading RCVMORE from the socket takes longer than a frame
            frame = self._recv(_NOBLOCK, copy=False)
            frames.append(frame.bytes)
        if len(frames) != 3 or len(frames[1]) != 8:
            return MALFORMED
        topic, packed, payload = frames
        (sequence,) = _unpack_sequence(packed)
        return Message(topic, sequence, payload, connection, peer)


def _origin(frame: zmq.Frame) -> tuple[int | None, str | None]:
    """The connection of a frame, numbered as in the monitor, and the host at its other end."""
    try:
        connection, peer = frame.get(zmq.MessageOption.SRCFD), frame.get("Peer-Address")
    except zmq.ZMQError:
        return None, None
    host = str(peer).removeprefix("::ffff:") if peer else None  # IPv4 over a dual-stack socket
    return (connection if isinstance(connection, int) else None), host
