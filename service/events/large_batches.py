"""Batches of very many events or blocks: read and applied in slices, so that other streams and HTTP requests go on."""

from __future__ import annotations

from collections.abc import Iterator
from struct import unpack_from
from typing import Annotated, NamedTuple

import msgspec
from msgpack import OutOfData, Unpacker
from msgspec import Raw

from service.events.wire import Batch, Event, PackedEvents, WireError, read_batch
from service.index.base import Removed, Reuse, Stored

SMALL_BYTES = 128 * 1024
"""Payloads up to this size are read whole, whatever is in them."""
_LARGE_BYTES = 1024 * 1024
LARGE_EVENTS = 8192
"""More events are not read whole. A step of vLLM publishes one event per evicted block and one per request."""
_SLICE_BYTES = 256 * 1024
_SLICE_EVENTS = 256
_MAX_RUN = 1024
"""Stores of one request are consecutive: a slice does not end between two, unless this many follow each other."""
LARGE_BLOCKS = 65_536
"""An event of more blocks is applied in slices: a million tokens in blocks of 16."""
SLICE_BLOCKS = 8192
_MAX_EVENT_BYTES = 16 * 1024 * 1024
_CUT = "a batch of too many stores"
_TOO_LARGE = "an event of too many blocks"
_NAME_WITHIN = 64
"""Bytes from the start of an event that hold its name."""
_COUNT_BYTES = {0xDC: 2, 0xDD: 4}
"""Size of the count in an array's header, by the header's first byte."""
_NIL = 0xC0
_MAX_FIXED_INT = 0x7F
_LONGER_INTS = {2: b"\xcc\xd0", 3: b"\xcd\xd1", 5: b"\xce\xd2", 9: b"\xcf\xd3"}
"""First bytes of integers that have a small last byte, by their distance from the end."""


class _Packed(msgspec.Struct, array_like=True, gc=False):
    ts: float | None
    events: Raw
    rank: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _PackedMap(msgspec.Struct, gc=False):
    events: Raw
    ts: float | None = None
    data_parallel_rank: Annotated[int, msgspec.Meta(ge=0)] | None = None
    attn_dp_rank: Annotated[int, msgspec.Meta(ge=0)] | None = None


_decode = msgspec.msgpack.Decoder(_Packed).decode
_decode_map = msgspec.msgpack.Decoder(_PackedMap).decode
_encode = msgspec.msgpack.Encoder().encode


def read_batch_or_pack(payload: bytes) -> Batch:
    """As service.events.wire.read_batch, but leaves the events of a large batch packed. Raises WireError.

    For payloads above SMALL_BYTES: of smaller ones it decodes the events twice.
    """
    batch = _packed(payload)
    count = 0 if batch.packed is None else batch.packed.count
    if count > LARGE_EVENTS or (count > 1 and len(payload) > _LARGE_BYTES) or len(payload) > _MAX_EVENT_BYTES:
        return batch
    read = read_batch(payload)
    return batch if any(_blocks(event) > LARGE_BLOCKS for event in read.events) else read


def _packed(payload: bytes) -> Batch:
    return _packed_between_ends(payload) or _packed_by_decoder(payload)


def _packed_between_ends(payload: bytes) -> Batch | None:
    """The usual form, `[float, [event, …], rank]`, without a look at the events; None for any other.

    Even to find the end of a million events takes long. That the rank begins where it seems to, `slices` finds out.
    """
    rank = payload[-1]
    size = _COUNT_BYTES.get(payload[10], 0)
    if payload[:2] != b"\x93\xcb" or not size or (rank > _MAX_FIXED_INT and rank != _NIL):
        return None
    if any(payload[-before] in kinds for before, kinds in _LONGER_INTS.items()):
        return None
    (timestamp,) = unpack_from(">d", payload, 2)
    end = 11 + size
    count = int.from_bytes(payload[11:end], "big")
    return Batch(timestamp, (), 0 if rank == _NIL else rank, packed=PackedEvents(count, memoryview(payload)[end:-1]))


def _packed_by_decoder(payload: bytes) -> Batch:
    try:
        batch = _decode(payload)
        return Batch(batch.ts, (), batch.rank or 0, packed=_events(batch.events))
    except (ValueError, RecursionError, MemoryError, OverflowError):
        pass
    try:
        named = _decode_map(payload)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise WireError("no batch") from error
    rank = named.data_parallel_rank or named.attn_dp_rank or 0
    return Batch(named.ts, (), rank, packed=_events(named.events))


def _events(array: Raw) -> PackedEvents:
    """Raises WireError if it is no array."""
    packed = memoryview(array)
    kind = packed[0]
    if kind & 0xF0 == 0x90:
        return PackedEvents(kind & 0x0F, packed[1:])
    if kind in _COUNT_BYTES:
        end = 1 + _COUNT_BYTES[kind]
        return PackedEvents(int.from_bytes(packed[1:end], "big"), packed[end:])
    raise WireError("no events")


def slices(batch: Batch) -> Iterator[Batch]:
    """The events of a packed batch as consecutive batches of few events, read one by one."""
    if batch.packed is None:
        yield batch
        return
    start, end = b"\x93" + _encode(batch.timestamp), _encode(batch.rank)
    for piece in _pieces(batch.packed):
        if piece.size == 1 and len(piece.events) > _MAX_EVENT_BYTES:
            yield Batch(batch.timestamp, (), batch.rank, {_TOO_LARGE: 1})
            continue
        read = read_batch(b"".join((start, b"\xdd", piece.size.to_bytes(4, "big"), piece.events, end)))
        if piece.cut and any(_has_group(event) for event in read.events):
            read = msgspec.structs.replace(read, unread={**read.unread, _CUT: 1})
        yield from _by_blocks(read)


class _Piece(NamedTuple):
    """Consecutive packed events; `cut` if a store follows, which may be of the same request."""

    size: int
    events: memoryview
    cut: bool


def _pieces(packed: PackedEvents) -> Iterator[_Piece]:
    events = packed.events
    start = end = count = 0
    for following in _ends(packed):
        is_removal = b"BlockRemoved" in bytes(events[end : end + _NAME_WITHIN])
        is_full = count >= _MAX_RUN or end - start >= _SLICE_BYTES or (count >= _SLICE_EVENTS and is_removal)
        if count and (is_full or following - end > _MAX_EVENT_BYTES):
            yield _Piece(count, events[start:end], cut=not is_removal)
            start, count = end, 0
        end = following
        count += 1
    yield _Piece(count, events[start:end], cut=False)


def _ends(packed: PackedEvents) -> Iterator[int]:
    """The offset at which each event ends. Raises WireError if they do not end with the bytes."""
    unpacker = Unpacker(max_buffer_size=0)
    fed = 0
    for _ in range(packed.count):
        start = unpacker.tell()
        while True:
            try:
                unpacker.skip()
                break
            except OutOfData:
                if fed >= len(packed.events):
                    raise WireError("no msgpack") from None
                # It skips from the start of the event again, so each attempt has twice as much.
                more = max(_SLICE_BYTES, fed - start)
                unpacker.feed(packed.events[fed : fed + more])
                fed += more
        yield unpacker.tell()
    if unpacker.tell() != len(packed.events):
        raise WireError("no batch")


def _blocks(event: Event) -> int:
    if isinstance(event, Stored) and event.block_size:
        return max(len(event.hashes), len(event.tokens) // event.block_size)
    return len(event.hashes) if isinstance(event, Stored | Removed) else 0


def _can_be_cut(event: Event) -> bool:
    """Whether each block has its hash, unlike in the stores of sliding windows."""
    return not isinstance(event, Stored) or len(event.hashes) * event.block_size in (0, len(event.tokens))


def _by_blocks(batch: Batch) -> Iterator[Batch]:
    """The same batch, as several if an event has very many blocks."""
    if all(_blocks(event) <= LARGE_BLOCKS for event in batch.events):
        yield batch
        return
    unread = batch.unread
    for event in batch.events:
        if _blocks(event) > LARGE_BLOCKS and not _can_be_cut(event):
            yield Batch(batch.timestamp, (), batch.rank, {**unread, _TOO_LARGE: 1})
            unread = {}
            continue
        for part in _parts(event):
            # A part of a report of reuse would pass for a report of its own.
            cut = {_CUT: 1} if part is not event and isinstance(event, Stored) and event.reuse is not Reuse.NO else {}
            yield Batch(batch.timestamp, (part,), batch.rank, {**unread, **cut})
            unread = {}


def _parts(event: Event) -> Iterator[Event]:
    """The same blocks in events of at most SLICE_BLOCKS, each with the last block before it as its parent."""
    size = _blocks(event)
    if not isinstance(event, Stored | Removed) or size <= LARGE_BLOCKS:
        yield event
        return
    for start in range(0, size, SLICE_BLOCKS):
        end = start + SLICE_BLOCKS
        hashes = event.hashes[start:end]
        if isinstance(event, Removed):
            yield msgspec.structs.replace(event, hashes=hashes, copies_left=event.copies_left[start:end])
            continue
        yield msgspec.structs.replace(
            event,
            hashes=hashes,
            parent=event.hashes[start - 1] if start and event.tokens else event.parent,
            tokens=event.tokens[start * event.block_size : end * event.block_size],
            extras=event.extras[start:end],
        )


def _has_group(event: object) -> bool:
    return getattr(event, "kind", None) is not None
