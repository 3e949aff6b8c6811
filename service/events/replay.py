"""Asking an engine's replay socket for batches that were missed."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import NamedTuple

import zmq
import zmq.asyncio

END = b"\xff" * 8
_ANSWER_MILLISECONDS = 2000
_SLICE = 128
_MOST_REPEATED = 10_000


class ReplayError(Exception):
    """The replay socket gave no usable answer; the text says what it did."""


class Replayed(NamedTuple):
    """One batch that was published before; `topic` is None where the engine does not repeat it (vLLM before 0.26)."""

    topic: bytes | None
    sequence: int
    payload: bytes


async def ask(context: zmq.Context[zmq.Socket[bytes]], address: str, start: int) -> AsyncGenerator[Replayed]:
    """Gives the batches that the engine still has from sequence number `start` on, in its order.

    Raises ReplayError when the engine does not answer for a while or answers something else, or the same again
    and again.
    """
    # Closed as the asynchronous socket that it is: else the loop goes on watching its number, which the next connection
    # of anybody gets, and is then never read.
    with zmq.asyncio.Context(context).socket(zmq.DEALER) as readable:
        socket: zmq.Socket[bytes] = zmq.Socket.shadow(readable)
        socket.linger = 0
        socket.rcvhwm = 0
        try:
            socket.connect(address)
            socket.send_multipart((b"", start.to_bytes(8, "big")), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            raise ReplayError(f"cannot ask {address}: {error.strerror}") from error
        last, repeated = -1, 0
        while True:
            if not await readable.poll(_ANSWER_MILLISECONDS):
                raise ReplayError(f"{address} does not answer")
            for _ in range(_SLICE):
                try:
                    frames = socket.recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                replayed = _read(frames, address)
                if replayed is None:
                    return
                repeated += replayed.sequence <= last
                if repeated > _MOST_REPEATED:
                    raise ReplayError(f"{address} repeats itself without end")
                last = replayed.sequence
                yield replayed


def _read(frames: list[bytes], address: str) -> Replayed | None:
    """The batch in a reply; None at the end of the replay."""
    topic: bytes | None = None
    match frames:
        case [b"", sequence, payload]:
            pass
        case [b"", topic, sequence, payload]:
            pass
        case _:
            raise ReplayError(f"{address} answers in {len(frames)} frames")
    if sequence == END:
        return None
    if len(sequence) != 8:
        raise ReplayError(f"{address} answers with a sequence number of {len(sequence)} bytes")
    return Replayed(topic, int.from_bytes(sequence, "big"), payload)
