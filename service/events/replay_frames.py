"""The frames of requests to an engine for what it published before, and of its answers.

A replay brings batches by number. A snapshot brings the blocks that the engine holds, as batches of stores, and the
number of the next live batch. No release of an engine gives snapshots; two forms are drafts in public:

- `SnapshotAtReplaySocket`: vLLM's pull request 50134. The request is the word `snapshot` instead of a number; the
  answer has the shape of a replay's, with the number of the next live batch in each frame.
- `SnapshotAtOwnSocket`: vLLM's pull request 57789 and SGLang's 34407. The engine has a socket for snapshots, and says
  in each part in which life of the engine (`epoch`) and before which batch (`resume_seq`) it was taken. The
  descriptions name these fields; that a part is a map of them and of `events`, is an assumption.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, NamedTuple, Protocol

import msgspec
from msgspec import Raw

END = b"\xff" * 8
_SNAPSHOT = b"snapshot"


class ReplayError(Exception):
    """An engine gave no usable answer; the text says why."""


class Replayed(NamedTuple):
    """One batch of an answer.

    `topic` is None if the engine does not repeat it (vLLM before 0.26). `sequence` is the number of a replayed batch;
    in a snapshot, it is that of the next live batch.
    """

    topic: bytes | None
    sequence: int
    payload: bytes


class Exchange(Protocol):
    """One request, and how its answer is read."""

    @property
    def request(self) -> bytes:
        """The frame that follows an empty one."""
        ...

    def read(self, frames: Sequence[bytes], address: str) -> Replayed | None:
        """The batch in one message of the answer; None at its end. Raises ReplayError."""
        ...


class Replay(msgspec.Struct, frozen=True):
    """The batches from a number on, as far as the engine keeps them."""

    start: int

    @property
    def request(self) -> bytes:
        return self.start.to_bytes(8, "big")

    def read(self, frames: Sequence[bytes], address: str) -> Replayed | None:
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


class SnapshotAtReplaySocket:
    """The blocks that an engine holds, from its replay socket."""

    request = _SNAPSHOT

    def read(self, frames: Sequence[bytes], address: str) -> Replayed | None:
        return Replay(0).read(frames, address)


class _Part(msgspec.Struct, gc=False):
    epoch: Raw
    resume_seq: Annotated[int, msgspec.Meta(ge=0)]
    events: Raw
    replica_rank: Annotated[int, msgspec.Meta(ge=0)] = 0
    ts: float | None = None


class SnapshotAtOwnSocket:
    """The blocks that an engine holds, from a socket for snapshots. An object reads one answer."""

    request = _SNAPSHOT

    def __init__(self) -> None:
        self._epoch: bytes | None = None
        self._decoder = msgspec.msgpack.Decoder(_Part)

    def read(self, frames: Sequence[bytes], address: str) -> Replayed | None:
        match frames:
            case [b"", packed]:
                pass
            case _:
                raise ReplayError(f"{address} answers in {len(frames)} frames")
        if packed == END:
            return None
        try:
            part = self._decoder.decode(packed)
        except (ValueError, RecursionError, MemoryError) as error:
            raise ReplayError(f"{address} answers with a part of a snapshot that cannot be read: {error}") from None
        epoch = bytes(part.epoch)
        if self._epoch not in (None, epoch):
            raise ReplayError(f"{address} restarted during its snapshot")
        self._epoch = epoch
        batch = msgspec.msgpack.encode([part.ts, part.events, part.replica_rank])
        return Replayed(None, part.resume_seq, batch)
