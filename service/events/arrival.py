"""A received batch: sequence number, payload and decoded events."""

from __future__ import annotations

import msgspec
from xxhash import xxh3_64_intdigest

from service.events.large_batches import SMALL_BYTES, read_batch_or_pack
from service.events.wire import Batch, read_batch


class Arrival(msgspec.Struct, frozen=True, gc=False):
    """One message of a stream, live or replayed. `digest` is the XXH3-64 of `payload`."""

    sequence: int
    digest: int
    batch: Batch
    payload: bytes


def read_arrival(sequence: int, payload: bytes) -> Arrival:
    """Decodes a message's payload. Raises WireError."""
    return Arrival(sequence, xxh3_64_intdigest(payload), read_batch(payload), payload)


def receive_arrival(sequence: int, payload: bytes) -> Arrival:
    """Decodes a message's payload, and leaves a large one packed: from a socket, any size comes. Raises WireError."""
    batch = read_batch(payload) if len(payload) <= SMALL_BYTES else read_batch_or_pack(payload)
    return Arrival(sequence, xxh3_64_intdigest(payload), batch, payload)


def unreadable_arrival(sequence: int, payload: bytes, rank: int, reason: str) -> Arrival:
    """Replaces a message with an undecodable payload, so that its sequence number does not count as missing."""
    return Arrival(sequence, xxh3_64_intdigest(payload), Batch(None, (), rank, {reason: 1}), payload)
