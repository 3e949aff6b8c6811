"""The form of a snapshot, in files and between replicas: frames with a checksum each, and a mark at the end.

It is not compressed: hashes and keys are random numbers, of which compression saves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from struct import Struct
from typing import BinaryIO, TypeAlias

import msgspec
from xxhash import xxh3_64_intdigest

from service.events.stream_records import StreamRecord
from service.index.snapshot_records import BlockRecord, RankRecord

VERSION = 1
"""To be changed with any record, and with the way in which block keys are made."""
_MAGIC = b"kvcache snapshot"
_FRAME = Struct("<IQ")
_MAX_FRAME = 64 << 20


class SnapshotError(Exception):
    """The bytes are not a usable snapshot; the text gives the reason."""


class Header(msgspec.Struct, array_like=True, tag=True, gc=False):
    """The first record."""

    version: int
    written_at: float
    """Unix seconds, for people: nothing depends on it."""


class End(msgspec.Struct, array_like=True, tag=True, gc=False):
    """The last record: without it, something is missing."""

    ranks: int


Record: TypeAlias = Header | StreamRecord | RankRecord | BlockRecord | End
"""A header, then of each rank its stream, its first record and its blocks, then the end."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Record).decode


def start(written_at: float) -> bytes:
    """The first bytes of a snapshot."""
    return _MAGIC + frame(Header(VERSION, written_at))


def frame(record: Record) -> bytes:
    payload = _encode(record)
    return _FRAME.pack(len(payload), xxh3_64_intdigest(payload)) + payload


def frames(records: Iterable[Record]) -> bytes:
    return b"".join(map(frame, records))


class Reader:
    """Takes bytes as they come, and gives the records in them. Raises SnapshotError."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._has_magic = False
        self._is_first = True
        self._ranks = 0
        self.ended = False

    def feed(self, data: bytes) -> Iterator[Record]:
        """The records that are complete with these bytes, without header and end. To be used up before the next."""
        self._bytes += data
        at = 0
        if not self._has_magic:
            if not _MAGIC.startswith(bytes(self._bytes[: len(_MAGIC)])):
                raise SnapshotError("it is no snapshot of kvcache")
            if len(self._bytes) < len(_MAGIC):
                return
            self._has_magic, at = True, len(_MAGIC)
        while len(self._bytes) - at >= _FRAME.size:
            size, digest = _FRAME.unpack_from(self._bytes, at)
            if size > _MAX_FRAME:
                raise SnapshotError("it is damaged")
            if len(self._bytes) - at < _FRAME.size + size:
                break
            payload = bytes(memoryview(self._bytes)[at + _FRAME.size : at + _FRAME.size + size])
            at += _FRAME.size + size
            if xxh3_64_intdigest(payload) != digest:
                raise SnapshotError("it is damaged: a checksum does not match")
            record = self._read(payload)
            if record is not None:
                yield record
        del self._bytes[:at]

    def _read(self, payload: bytes) -> Record | None:
        try:
            record: Record = _decode(payload)
        except msgspec.ValidationError as error:
            if self._is_first:
                raise SnapshotError("it has another version") from error
            raise SnapshotError(f"a record cannot be read ({error})") from error
        except msgspec.DecodeError as error:
            raise SnapshotError(f"a record cannot be read ({error})") from error
        if self._is_first:
            self._is_first = False
            if not isinstance(record, Header) or record.version != VERSION:
                version = record.version if isinstance(record, Header) else "none"
                raise SnapshotError(f"it has version {version}, and this program reads version {VERSION}")
            return None
        if self.ended:
            raise SnapshotError("it goes on behind its end")
        if isinstance(record, End):
            if record.ranks != self._ranks:
                raise SnapshotError("ranks are missing")
            self.ended = True
            return None
        self._ranks += isinstance(record, StreamRecord)
        return record

    def finish(self) -> None:
        """Raises SnapshotError if the end is missing."""
        if not self.ended:
            raise SnapshotError("its end is missing")


def check(file: BinaryIO) -> int:
    """Reads a whole file without keeping it; gives its size in bytes. Raises SnapshotError and OSError."""
    reader = Reader()
    size = 0
    while piece := file.read(1 << 20):
        size += len(piece)
        for _ in reader.feed(piece):
            pass
    reader.finish()
    return size


def rank_records(stream: StreamRecord, rank: RankRecord, blocks: Sequence[BlockRecord]) -> list[Record]:
    """The records of one rank, in order."""
    return [stream, rank, *blocks]
