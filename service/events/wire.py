"""Frames → events: every form in which vLLM (0.9.0 to 0.33.0) and SGLang (to 0.5.23) publish what their caches do.

Batches and events are msgpack, each either an array or a map of the same fields. A field that a release does not have
yet, or leaves out, is read as None; fields that we do not know are passed over.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from service.index.base import BlockHash, Removed, Reuse, Stored, Tier, TokenIds
from service.index.keys import block_extra, lookahead_extra

_STORED = (
    "block_hashes",
    "parent_block_hash",
    "token_ids",
    "block_size",
    "lora_id",
    "medium",
    "lora_name",
    "extra_keys",
    "group_idx",
    "kv_cache_spec_kind",
    "kv_cache_spec_sliding_window",
    "locality",
    "ownership",
    "session_id",
    "lookahead_token_ids",
)
_REMOVED = ("block_hashes", "medium", "group_idx")

_TIERS = {
    None: Tier.GPU,
    "GPU": Tier.GPU,
    "CPU": Tier.CPU,
    "CPU_PINNED": Tier.CPU,
    "STORAGE": Tier.STORAGE,
    "FS": Tier.STORAGE,
    "OBJ": Tier.STORAGE,
    "DISK": Tier.STORAGE,
    "EXTERNAL": Tier.STORAGE,
}
_MAX_BLOCK_SIZE = 1 << 20
_HASH_MASK = (1 << 64) - 1


class WireError(Exception):
    """Something cannot be read; the text is the reason, in a word or two that can label a metric."""


class Cleared(msgspec.Struct, frozen=True, gc=False):
    """`AllBlocksCleared`: the rank's cache is empty."""


Event: TypeAlias = Stored | Removed | Cleared


class Batch(msgspec.Struct, frozen=True, gc=False):
    """What one message says: events in order, when (Unix seconds, or None), of which data-parallel rank."""

    timestamp: float | None
    events: Sequence[Event]
    rank: int
    unread: Mapping[str, int] = {}
    """How many of its events could not be read, by reason."""


_decode = msgspec.msgpack.Decoder().decode


def read_batch(payload: bytes) -> Batch:
    """Reads a payload frame. Raises WireError when nothing of it can be read."""
    try:
        batch = _decode(payload)
    except (ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise WireError("no msgpack") from error
    if isinstance(batch, list):
        timestamp, events, rank = (*batch, None, None, None)[:3]
    elif isinstance(batch, dict):
        timestamp, events = batch.get("ts"), batch.get("events")
        rank = batch.get("data_parallel_rank", batch.get("attn_dp_rank"))
    else:
        raise WireError("no batch")
    if not isinstance(events, list):
        raise WireError("no events")
    if rank is not None and (not isinstance(rank, int) or rank < 0):
        raise WireError("no rank")
    read: list[Event] = []
    unread: dict[str, int] = {}
    for event in events:
        try:
            read.append(_event(event))
        except WireError as error:
            unread[str(error)] = unread.get(str(error), 0) + 1
    _mark_reports_of_reuse(read)
    return Batch(float(timestamp) if isinstance(timestamp, int | float) else None, read, rank or 0, unread)


def _mark_reports_of_reuse(events: list[Event]) -> None:
    """Finds the stores that may be reports of reuse, which nothing but their place in the batch tells from copies.

    vLLM (0.22.0 and later, by its fields) sends such a report from the first block on, for each KV-cache group, and
    before the request takes any blocks; a copy comes after the removal of what the blocks held that it took. What the
    request adds to what it reused follows in the same batch.
    """
    parents = {event.parent for event in events if isinstance(event, Stored)}
    first: Stored | None = None
    for position, event in enumerate(events):
        if not isinstance(event, Stored) or event.parent is not None or event.kind is None or not event.hashes:
            first = None
        elif first is not None and _same_for_another_group(first, event):
            events[position] = msgspec.structs.replace(event, reuse=first.reuse and Reuse.AS_BEFORE)
        else:
            follows_removal = position > 0 and isinstance(events[position - 1], Removed)
            reuse = Reuse.NO if follows_removal else Reuse.POSSIBLE
            first = msgspec.structs.replace(event, reuse=Reuse.CONTINUED if event.hashes[-1] in parents else reuse)
            events[position] = first


def _same_for_another_group(first: Stored, event: Stored) -> bool:
    same_group = (event.group, event.block_size) == (first.group, first.block_size)
    return not same_group and event.tokens == first.tokens[: len(event.tokens)]


def _event(event: Any) -> Event:
    if isinstance(event, dict):
        name, fields = event.get("type"), event
    elif isinstance(event, list) and event:
        name = event[0]
        fields = dict(zip(_STORED if name == "BlockStored" else _REMOVED, event[1:], strict=False))
    else:
        raise WireError("no event")
    match name:
        case "BlockStored":
            return _stored(fields)
        case "BlockRemoved":
            return Removed(_hashes(fields), _tier(fields), _number(fields, "group_idx"))
        case "AllBlocksCleared":
            return Cleared()
    raise WireError("unknown event")


def _stored(fields: Mapping[str, Any]) -> Stored:
    hashes = _hashes(fields)
    parent = fields.get("parent_block_hash")
    lora_name = _lora_name(fields)
    kind = _text(fields, "kv_cache_spec_kind")
    tokens, lookahead = _tokens(fields)
    block_size = _number(fields, "block_size") or 0
    if len(tokens) and not 0 < block_size <= _MAX_BLOCK_SIZE:
        raise WireError("block size")
    if len(tokens) % block_size if block_size else len(tokens):
        raise WireError("token count")
    blocks = len(tokens) // block_size if block_size else 0
    if len(tokens) and blocks != len(hashes) and (kind in (None, "full_attention") or blocks < len(hashes)):
        raise WireError("token count")
    return Stored(
        hashes=hashes,
        parent=None if parent is None else _hash(parent),
        tokens=tokens,
        block_size=block_size,
        tier=_tier(fields),
        lora_name=lora_name,
        extras=_extras(fields, lora_name, lookahead),
        group=_number(fields, "group_idx"),
        kind=kind,
        window=_number(fields, "kv_cache_spec_sliding_window"),
        lookahead=len(lookahead[0]) if lookahead else 0,
    )


def _hashes(fields: Mapping[str, Any]) -> list[BlockHash]:
    hashes = fields.get("block_hashes")
    if not isinstance(hashes, list):
        raise WireError("block hashes")
    return [_hash(block_hash) for block_hash in hashes]


def _hash(block_hash: Any) -> BlockHash:
    if isinstance(block_hash, int):
        return block_hash & _HASH_MASK
    if isinstance(block_hash, bytes):
        return block_hash
    raise WireError("block hashes")


def _tokens(fields: Mapping[str, Any]) -> tuple[TokenIds, Sequence[TokenIds]]:
    """The blocks' tokens, and per block the tokens past it that are hashed into it, if any."""
    tokens = fields.get("token_ids") or []
    lookahead = fields.get("lookahead_token_ids")
    try:
        if tokens and isinstance(tokens[0], list):
            return _paired_tokens(fields, tokens)
        return array("I", tokens), [array("I", past) for past in lookahead or ()]
    except (TypeError, OverflowError, ValueError, KeyError, IndexError) as error:
        raise WireError("token ids") from error


def _paired_tokens(fields: Mapping[str, Any], pairs: list[Any]) -> tuple[TokenIds, Sequence[TokenIds]]:
    """SGLang with EAGLE hashes each token together with the next one, so that a block reaches one token further."""
    block_size = _number(fields, "block_size") or 1
    tokens = array("I", (first for first, _ in pairs))
    return tokens, [array("I", pair[1:2]) for pair in pairs[block_size - 1 :: block_size]]


def _tier(fields: Mapping[str, Any]) -> Tier:
    medium = fields.get("medium")
    try:
        return _TIERS[medium.upper() if isinstance(medium, str) else medium]
    except (KeyError, TypeError) as error:
        raise WireError("medium") from error


def _lora_name(fields: Mapping[str, Any]) -> str | None:
    name = _text(fields, "lora_name")
    if name is None and fields.get("lora_id") is not None:
        # vLLM before 0.14.0 numbers its LoRAs and does not name them: kept apart from all that a request can name.
        return f"\0{fields['lora_id']}"
    return name


def _extras(fields: Mapping[str, Any], lora_name: str | None, lookahead: Sequence[TokenIds]) -> list[bytes | None]:
    names = fields.get("extra_keys") or []
    if not isinstance(names, list):
        raise WireError("extra keys")
    extras: list[bytes | None] = [_extra(block, lora_name) for block in names] if any(names) else []
    salt = _text(fields, "cache_salt")
    if salt and fields.get("parent_block_hash") is None and not extras:
        extras = [block_extra([salt])]
    if lookahead:
        extras = [
            lookahead_extra(extras[position] if position < len(extras) else None, past)
            for position, past in enumerate(lookahead)
        ]
    return extras


def _extra(names: Any, lora_name: str | None) -> bytes | None:
    if names is None:
        return None
    if not isinstance(names, list):
        raise WireError("extra keys")
    return block_extra(names[1:] if names and names[0] == lora_name else names)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return value
    raise WireError(name.replace("_", " "))


def _number(fields: Mapping[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None or isinstance(value, int):
        return value
    raise WireError(name.replace("_", " "))
