"""The bytes of a snapshot, and what is refused."""

from __future__ import annotations

from random import Random

import pytest

from service.events.batch_order import SequenceRecord
from service.events.sequencer import SequencerRecord
from service.events.stream_records import StreamRecord
from service.index.memory import MemoryIndex
from service.replicas.snapshot_format import End, Header, Reader, Record, SnapshotError, frame, frames, start
from tests.service.index.blocks import A, stored
from tests.tries import tries


@pytest.fixture(scope="module")
def records() -> list[Record]:
    index = MemoryIndex(100_000)
    index.store(A, stored(*range(1, 20_000)))
    order = SequencerRecord(SequenceRecord(3, [1, None, 2**64 - 1], 5, 1.0, 0.5), "a loss", True, False)
    return [StreamRecord(*A, "tcp://10.0.0.1:5557", b"kv@a@m", None, 1.5, None, order), *index.capture(A)]


@pytest.fixture(scope="module")
def snapshot(records: list[Record]) -> bytes:
    return start(1.0) + frames(records) + frame(End(1))


def read(*pieces: bytes) -> list[Record]:
    reader = Reader()
    found = [record for piece in pieces for record in reader.feed(piece)]
    reader.finish()
    return found


@pytest.mark.parametrize("size", [1, 4096, 1 << 20])
def test_records_come_back_however_the_bytes_are_cut(records: list[Record], snapshot: bytes, size: int) -> None:
    head = 20_000 if size == 1 else 0
    rest = max(size, 4096)
    pieces = [snapshot[at : at + 1] for at in range(head)]
    pieces += [snapshot[at : at + rest] for at in range(head, len(snapshot), rest)]
    assert read(*pieces) == records


def test_a_snapshot_that_is_cut_anywhere_is_refused(snapshot: bytes) -> None:
    random = Random(1)
    ends = {0, 1, 15, 16, 20, len(snapshot) - 1, *(random.randrange(len(snapshot)) for _ in range(tries(30, 300)))}
    for end in ends:
        with pytest.raises(SnapshotError):
            read(snapshot[:end])


def test_a_snapshot_with_any_other_byte_is_refused(snapshot: bytes) -> None:
    random = Random(2)
    for _ in range(tries(30, 300)):
        damaged = bytearray(snapshot)
        damaged[random.randrange(len(damaged))] ^= 1 << random.randrange(8)
        with pytest.raises(SnapshotError):
            read(bytes(damaged))


def test_another_version_is_named(snapshot: bytes) -> None:
    other = start(1.0)[:16] + frame(Header(0, 1.0)) + frame(End(0))
    with pytest.raises(SnapshotError, match="it has version 0, and this program reads version 1"):
        read(other)


@pytest.mark.parametrize("content", [b"PK\x03\x04 something else", b"{}", b"\x00" * 100])
def test_a_foreign_file_is_named(content: bytes) -> None:
    with pytest.raises(SnapshotError, match="it is no snapshot of kvcache"):
        read(content)


def test_ranks_that_are_missing_are_noticed(snapshot: bytes) -> None:
    with pytest.raises(SnapshotError, match="ranks are missing"):
        read(start(1.0), frame(End(1)))
