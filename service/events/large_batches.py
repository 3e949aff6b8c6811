"""Batches of very many events: read and applied in slices, so that other streams and HTTP requests go on meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import msgspec
from msgspec import Raw

from service.events.wire import Batch, WireError, read_batch

_SMALL_BYTES = 128 * 1024
"""Payloads up to this size are read whole, whatever is in them."""
_LARGE_BYTES = 1024 * 1024
LARGE_EVENTS = 8192
"""More events are not read whole. A step of vLLM publishes one event per evicted block and one per request."""
_SLICE_BYTES = 256 * 1024
_SLICE_EVENTS = 256
_MAX_RUN = 1024
"""Stores of one request are consecutive: a slice does not end between two, unless this many follow each other."""
_CUT = "a batch of too many stores"


class _Packed(msgspec.Struct, array_like=True, gc=False):
    ts: float | None
    events: list[Raw]
    rank: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _PackedMap(msgspec.Struct, gc=False):
    events: list[Raw]
    ts: float | None = None
    data_parallel_rank: Annotated[int, msgspec.Meta(ge=0)] | None = None
    attn_dp_rank: Annotated[int, msgspec.Meta(ge=0)] | None = None


_decode = msgspec.msgpack.Decoder(_Packed).decode
_decode_map = msgspec.msgpack.Decoder(_PackedMap).decode
_encode = msgspec.msgpack.Encoder().encode


def read_batch_or_pack(payload: bytes) -> Batch:
    """As service.events.wire.read_batch, but leaves the events of a large batch packed. Raises WireError."""
    if len(payload) <= _SMALL_BYTES:
        return read_batch(payload)
    batch = _packed(payload)
    is_large = len(batch.packed) > LARGE_EVENTS or (len(batch.packed) > 1 and len(payload) > _LARGE_BYTES)
    return batch if is_large else read_batch(payload)


def _packed(payload: bytes) -> Batch:
    try:
        batch = _decode(payload)
        return Batch(batch.ts, (), batch.rank or 0, packed=batch.events)
    except (ValueError, RecursionError, MemoryError, OverflowError):
        pass
    try:
        named = _decode_map(payload)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise WireError("no batch") from error
    return Batch(named.ts, (), named.data_parallel_rank or named.attn_dp_rank or 0, packed=named.events)


def slices(batch: Batch) -> Iterator[Batch]:
    """The events of a packed batch as consecutive batches of few events, read one by one."""
    packed, start = batch.packed, 0
    while start < len(packed):
        end = _end_of_slice(packed, start)
        read = read_batch(b"\x93" + _encode(batch.timestamp) + _array(packed[start:end]) + _encode(batch.rank))
        if end < len(packed) and not _is_removal(packed[end]) and any(_has_group(event) for event in read.events):
            read = msgspec.structs.replace(read, unread={**read.unread, _CUT: 1})
        yield read
        start = end


def _end_of_slice(packed: Sequence[Raw], start: int) -> int:
    end, size = start, 0
    last = min(start + _MAX_RUN, len(packed))
    while end < last and (size < _SLICE_BYTES or end == start):
        if end >= start + _SLICE_EVENTS and _is_removal(packed[end]):
            break
        size += memoryview(packed[end]).nbytes
        end += 1
    return end


def _is_removal(event: Raw) -> bool:
    return b"BlockRemoved" in bytes(memoryview(event)[:64])


def _has_group(event: object) -> bool:
    return getattr(event, "kind", None) is not None


def _array(events: Sequence[Raw]) -> bytes:
    return b"\xdd" + len(events).to_bytes(4, "big") + b"".join(memoryview(event) for event in events)
