"""Decodes frames into events, in every form that vLLM (0.9.0 to 0.33.0) and SGLang (to 0.5.23) publish.

Batches and events are msgpack: an array, or a map of the same fields. A missing field is read as None; an unknown field
is skipped.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import gcd
from typing import Annotated, Any, TypeAlias

import msgspec
from msgspec import Raw
from xxhash import xxh3_64_intdigest

from service.events.mediums import tier_of
from service.index.base import NAMELESS_LORA, BlockHash, Removed, Reuse, Stored, Tier, TokenIds
from service.index.keys import block_extra, lookahead_extra, salt_extra
from service.native.backend import as_key_vector, read_common_batch, unpack_hashes, unpack_tokens

_NIL = Raw(b"\xc0")


class _Stored(msgspec.Struct, tag_field="type", tag="BlockStored", gc=False):
    """The fields of `BlockStored` that are used here. Lists of numbers stay packed where the form allows it."""

    block_hashes: Raw
    parent_block_hash: int | bytes | None = None
    token_ids: Raw = _NIL
    block_size: int | None = None
    lora_id: int | None = None
    medium: str | None = None
    lora_name: str | None = None
    extra_keys: list[Any] | None = None
    group_idx: int | None = None
    kv_cache_spec_kind: str | None = None
    kv_cache_spec_sliding_window: int | None = None
    lookahead_token_ids: list[Any] | None = None
    cache_salt: str | None = None
    locality: Any = None


class _Removed(msgspec.Struct, tag_field="type", tag="BlockRemoved", gc=False):
    block_hashes: Raw
    medium: str | None = None
    group_idx: int | None = None
    remaining_copy_counts: list[Annotated[int, msgspec.Meta(ge=0)]] | None = None


class _Cleared(msgspec.Struct, tag_field="type", tag="AllBlocksCleared", gc=False):
    pass


class _Batch(msgspec.Struct, array_like=True, gc=False):
    ts: float | None
    events: list[_Stored | _Removed | _Cleared]
    rank: Annotated[int, msgspec.Meta(ge=0)] | None = None


class _BatchOfArrays(msgspec.Struct, array_like=True, gc=False):
    ts: float | None
    events: list[list[Raw]]
    rank: Annotated[int, msgspec.Meta(ge=0)] | None = None


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

_GPU = Tier.GPU
_MAX_BLOCK_SIZE = 1 << 20
_HASH_MASK = (1 << 64) - 1
_HALF = 1 << 63
_MAX_GROUPS = 64
"""Maximum of KV-cache groups of an engine, and so of consecutive stores of one request."""


class WireError(Exception):
    """A message or event cannot be read; the text is a short reason that can label a metric."""


class Cleared(msgspec.Struct, frozen=True, gc=False):
    """`AllBlocksCleared`: a cache of the rank is empty. Mooncake names the tier."""

    tier: Tier | None = None


_CLEARED = Cleared()

Event: TypeAlias = Stored | Removed | Cleared


class PackedEvents(msgspec.Struct, frozen=True, gc=False):
    """Events that are not read yet, one after the other in msgpack."""

    count: int
    events: memoryview


class Batch(msgspec.Struct, frozen=True, gc=False):
    """The content of one message: events in order, time (Unix seconds, or None), data-parallel rank."""

    timestamp: float | None
    events: Sequence[Event]
    rank: int
    unread: Mapping[str, int] = {}
    """Number of unreadable events, by reason."""
    packed: PackedEvents | None = None
    """The events of a large batch, which are not read yet: service/events/large_batches.py."""


_decode = msgspec.msgpack.Decoder().decode
_decode_maps = msgspec.msgpack.Decoder(_Batch).decode
_decode_arrays = msgspec.msgpack.Decoder(_BatchOfArrays).decode


def read_batch(payload: bytes) -> Batch:
    """Reads a payload frame. Raises WireError if nothing of it can be read."""
    usual = read_common_batch(payload, Stored, Removed, _GPU)
    if usual is None:
        return _read_maps(payload)
    timestamp, events, rank, from_first_block = usual
    if from_first_block:
        _relate(events)
    return Batch(timestamp, events, rank)


def _read_maps(payload: bytes) -> Batch:
    """Reads a batch in the form of current releases; falls back to other forms."""
    try:
        batch = _decode_maps(payload)
    except (ValueError, RecursionError, MemoryError, OverflowError):
        return _read_arrays(payload)
    read, unread = _read(batch.events, _quick_event)
    return Batch(batch.ts, read, batch.rank or 0, unread)


def _read_arrays(payload: bytes) -> Batch:
    """Reads a batch in the form of earlier releases, events as arrays; falls back to any form."""
    try:
        batch = _decode_arrays(payload)
        events = [_unpacked_event(event) for event in batch.events]
    except (ValueError, RecursionError, MemoryError, OverflowError):
        return _read_any(payload)
    read, unread = _read(events, _event)
    return Batch(batch.ts, read, batch.rank or 0, unread)


def _unpacked_event(fields: list[Raw]) -> list[Any]:
    """The fields of an event; its block hashes and token ids stay packed."""
    name = _decode(fields[0]) if fields else None
    packed = (1, 3) if name == "BlockStored" else (1,)
    return [field if position in packed else _decode(field) for position, field in enumerate(fields)]


def _read_any(payload: bytes) -> Batch:
    """Reads a batch in any form."""
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
    read, unread = _read(events, _event)
    return Batch(float(timestamp) if isinstance(timestamp, int | float) else None, read, rank or 0, unread)


def _read(events: list[Any], reader: Callable[[Any], Event]) -> tuple[list[Event], dict[str, int]]:
    """The readable events, and the number of unreadable ones by reason."""
    read: list[Event] = []
    unread: dict[str, int] = {}
    grouped = False
    for event in events:
        try:
            one = reader(event)
        except WireError as error:
            unread[str(error)] = unread.get(str(error), 0) + 1
            continue
        read.append(one)
        grouped |= isinstance(one, Stored) and one.kind is not None
    if grouped:
        _relate(read)
    return read, unread


def _relate(events: list[Event]) -> None:
    """Adds information from the rest of the batch to stores of KV-cache groups."""
    if len(events) == 1 and isinstance(event := events[0], Stored):
        if event.parent is None and event.hashes:
            events[0] = msgspec.structs.replace(event, reuse=Reuse.POSSIBLE)
        return
    sizes: set[int] = set()
    names_some = False
    for event in events:
        if isinstance(event, Stored) and event.kind is not None and event.tokens:
            sizes.add(event.block_size)
            names_some = names_some or len(event.hashes) * event.block_size != len(event.tokens)
    if len(sizes) > 1:
        unit = gcd(*sizes)
        for position, event in enumerate(events):
            if isinstance(event, Stored) and event.kind is not None:
                events[position] = msgspec.structs.replace(event, hash_unit=unit)
    if names_some:
        _put_full_attention_first(events)
    _mark_reports_of_reuse(events)


def _put_full_attention_first(events: list[Event]) -> None:
    """Moves a store that names only some of its blocks behind another group's store of the same blocks that names all.

    The stores of a request are consecutive, in the order of the KV-cache groups; the full-attention group names the
    blocks that earlier sliding-window groups keep (gemma3).
    """
    ordered: list[Event] = []
    waiting: dict[int, list[Stored]] = {}
    for position, event in enumerate(events):
        if isinstance(event, Stored) and _names_some(event):
            later = _named_by(event, events, range(position + 1, min(position + _MAX_GROUPS, len(events))))
            if later is not None:
                waiting.setdefault(later[0], []).append(_with_extras_of(later[1], event))
                continue
            earlier = _named_by(event, events, range(position - 1, max(-1, position - _MAX_GROUPS), -1))
            ordered.append(event if earlier is None else _with_extras_of(earlier[1], event))
        else:
            ordered.append(event)
            ordered += waiting.pop(position, ())
    events[:] = ordered


def _names_some(event: Stored) -> bool:
    return len(event.hashes) * event.block_size < len(event.tokens)


def _named_by(some: Stored, events: Sequence[Event], positions: Iterable[int]) -> tuple[int, Stored] | None:
    """The first store at one of the positions that names all of its blocks and shares tokens with `some`."""
    for position in positions:
        whole = events[position]
        if isinstance(whole, Stored) and whole.tokens and not _names_some(whole) and whole.group != some.group:
            size = max(whole.block_size, some.block_size)
            if _starts_within(some, whole.tokens, size) or _starts_within(whole, some.tokens, size):
                return position, whole
    return None


def _starts_within(event: Stored, tokens: TokenIds, size: int) -> bool:
    """Whether `tokens` contain the first block of an event, at a multiple of its block size below `size`."""
    first = event.tokens[: event.block_size]
    return any(
        tokens[start : start + len(first)] == first for start in range(0, min(size, len(tokens)), event.block_size)
    )


def _with_extras_of(whole: Stored, some: Stored) -> Stored:
    """Copies extra keys from the store that names all blocks to the store that names some of them."""
    if not any(whole.extras) or some.parent != whole.parent or some.tokens[:16] != whole.tokens[:16]:
        return some
    extras: list[bytes | None] = [None] * (len(some.tokens) // some.block_size)
    for number, extra in enumerate(whole.extras):
        place = number * whole.block_size // some.block_size
        if extra is not None and place < len(extras):
            extras[place] = extra
    return msgspec.structs.replace(some, extras=extras)


def _mark_reports_of_reuse(events: list[Event]) -> None:
    """Marks stores that may be reuse reports; only their position in the batch distinguishes them from copies.

    vLLM (0.22.0 and later, by its fields) sends a reuse report from the first block on, for each KV-cache group, before
    the request allocates blocks. A copy follows the removal of the evicted content. Blocks that the request adds follow
    in the same batch; blocks stored earlier in the same batch are not reused.
    """
    parents = {event.parent for event in events if isinstance(event, Stored)}
    first: Stored | None = None
    new: set[tuple[int | None, BlockHash]] = set()
    for position, event in enumerate(events):
        if not isinstance(event, Stored) or event.parent is not None or event.kind is None or not event.hashes:
            first = None
        elif first is not None and _same_for_another_group(first, event):
            events[position] = msgspec.structs.replace(event, reuse=first.reuse and Reuse.SAME_AS_PREVIOUS_GROUP)
        else:
            last = (event.group, event.hashes[-1])
            is_copy = last in new or (position > 0 and isinstance(events[position - 1], Removed))
            follows = Reuse.FOLLOWED_BY_STORE if event.hashes[-1] in parents else Reuse.POSSIBLE
            first = msgspec.structs.replace(event, reuse=Reuse.NO if is_copy else follows)
            events[position] = first
            new.add(last)


def _same_for_another_group(first: Stored, event: Stored) -> bool:
    same_group = (event.group, event.block_size) == (first.group, first.block_size)
    return not same_group and event.tokens == first.tokens[: len(event.tokens)]


def _quick_event(event: _Stored | _Removed | _Cleared) -> Event:
    if isinstance(event, _Stored):
        return _stored(event)
    if isinstance(event, _Removed):
        return Removed(
            _hashes(event.block_hashes), _tier(event.medium), event.group_idx, event.remaining_copy_counts or ()
        )
    return _CLEARED


def _event(event: Any) -> Event:
    """Reads an event in any form."""
    if isinstance(event, dict):
        if "event_type" in event:
            return _mooncake_event(event)
        name, fields = event.get("type"), event
    elif isinstance(event, list) and event:
        name = event[0]
        fields = dict(zip(_STORED if name == "BlockStored" else _REMOVED, event[1:], strict=False))
    else:
        raise WireError("no event")
    match name:
        case "BlockStored":
            return _stored(_checked(fields), positional=isinstance(event, list))
        case "BlockRemoved":
            return Removed(
                _hashes(fields.get("block_hashes")),
                _tier(fields.get("medium")),
                _number(fields, "group_idx"),
                _counts(fields.get("remaining_copy_counts")),
            )
        case "AllBlocksCleared":
            return _CLEARED
    raise WireError("unknown event")


def _mooncake_event(event: Mapping[str, Any]) -> Event:
    """Reads an event of Mooncake's master: block hashes of the engine, without tokens and parents."""
    match event["event_type"]:
        case "stored":
            hashes, tier = _hashes(event.get("seq_hashes")), _tier(event.get("medium") or "STORAGE")
            return Stored(hashes, None, array("I"), 0, tier)
        case "removed":
            return Removed(_hashes(event.get("seq_hashes")), _tier(event.get("medium") or "STORAGE"))
        case "cleared":
            return Cleared(_tier(event.get("medium") or "STORAGE"))
    raise WireError("unknown event")


def _checked(fields: Mapping[str, Any]) -> _Stored:
    """Checks the types of all fields except lists. Raises WireError."""
    extra_keys = fields.get("extra_keys") or None
    if extra_keys is not None and not isinstance(extra_keys, list):
        raise WireError("extra keys")
    return _Stored(
        block_hashes=fields.get("block_hashes"),  # type: ignore[arg-type] # the lists are unpacked here
        parent_block_hash=fields.get("parent_block_hash"),
        token_ids=fields.get("token_ids") or _NIL,
        block_size=_number(fields, "block_size"),
        lora_id=fields.get("lora_id"),
        medium=fields.get("medium"),
        lora_name=_text(fields, "lora_name"),
        extra_keys=extra_keys,
        group_idx=_number(fields, "group_idx"),
        kv_cache_spec_kind=_text(fields, "kv_cache_spec_kind"),
        kv_cache_spec_sliding_window=_number(fields, "kv_cache_spec_sliding_window"),
        lookahead_token_ids=fields.get("lookahead_token_ids"),
        cache_salt=_text(fields, "cache_salt"),
        locality=fields.get("locality"),
    )


def _stored(event: _Stored, *, positional: bool = False) -> Stored:
    hashes = _hashes(event.block_hashes)
    block_size = event.block_size or 0
    tokens, lookahead = _tokens(event.token_ids, event.lookahead_token_ids, block_size or 1)
    blocks = 0
    if tokens:
        if not 0 < block_size <= _MAX_BLOCK_SIZE:
            raise WireError("block size")
        blocks, rest = divmod(len(tokens), block_size)
        whole = event.kv_cache_spec_kind in (None, "full_attention")
        if rest or (blocks != len(hashes) and (whole or blocks < len(hashes))):
            raise WireError("token count")
    lora_name = event.lora_name
    if lora_name is None and event.lora_id is not None:
        # vLLM before 0.14.0 numbers its LoRAs without naming them: this name differs from all names in requests.
        lora_name = f"{NAMELESS_LORA}{event.lora_id}"
    tier = _tier(event.medium)
    return Stored(
        hashes,
        None if event.parent_block_hash is None else _hash(event.parent_block_hash),
        tokens,
        block_size,
        tier,
        lora_name,
        _extras(event, lora_name, lookahead) if event.extra_keys or event.cache_salt or lookahead else (),
        event.group_idx,
        event.kv_cache_spec_kind,
        event.kv_cache_spec_sliding_window,
        len(lookahead[0]) if lookahead else 0,
        counts_copies=positional and event.group_idx is None,
        is_pool=tier is Tier.CPU and event.locality is not None,
    )


def _hashes(hashes: Any) -> Sequence[BlockHash]:
    if isinstance(hashes, Raw):
        packed = bytes(hashes)
        numbers = unpack_hashes(packed)
        if numbers is not None:
            return numbers
        hashes = _unpacked(packed, "block hashes")
    if not isinstance(hashes, list):
        raise WireError("block hashes")
    return as_key_vector([_hash(block_hash) for block_hash in hashes])


def _unpacked(packed: bytes, what: str) -> Any:
    try:
        return _decode(packed)
    except (ValueError, RecursionError) as error:
        raise WireError(what) from error


def _hash(block_hash: Any) -> BlockHash:
    if isinstance(block_hash, int):
        return (block_hash + _HALF & _HASH_MASK) - _HALF
    if isinstance(block_hash, bytes):
        return xxh3_64_intdigest(block_hash) - _HALF
    raise WireError("block hashes")


def _tokens(tokens: Any, lookahead: Any, block_size: int) -> tuple[TokenIds, Sequence[TokenIds]]:
    """The blocks' tokens, and per block the tokens after it that are part of its hash, if any."""
    if isinstance(tokens, Raw):
        packed = bytes(tokens)
        ids = unpack_tokens(packed)
        if ids is not None and not lookahead:
            return ids, ()
        tokens = _unpacked(packed, "token ids") or []
    try:
        if tokens and isinstance(tokens[0], list):
            return _paired_tokens(tokens, block_size)
        return array("I", tokens), [array("I", past) for past in lookahead or ()]
    except (TypeError, OverflowError, ValueError, KeyError, IndexError) as error:
        raise WireError("token ids") from error


def _paired_tokens(pairs: list[Any], block_size: int) -> tuple[TokenIds, Sequence[TokenIds]]:
    """SGLang with EAGLE hashes each token with the next one, so each block depends on one more token."""
    tokens = array("I", (first for first, _ in pairs))
    return tokens, [array("I", pair[1:2]) for pair in pairs[block_size - 1 :: block_size]]


def _tier(medium: Any) -> Tier:
    tier = tier_of(medium)
    if tier is None:
        raise WireError("medium")
    return tier


def _extras(event: _Stored, lora_name: str | None, lookahead: Sequence[TokenIds]) -> Sequence[bytes | None]:
    names = event.extra_keys or []
    extras: list[bytes | None] = [_extra(block, lora_name) for block in names] if any(names) else []
    if event.cache_salt and event.parent_block_hash is None and not extras:
        extras = [salt_extra(event.cache_salt)]
    if lookahead:
        extras = [
            lookahead_extra(extras[position] if position < len(extras) else None, past)
            for position, past in enumerate(lookahead)
        ]
    return extras or ()


def _extra(names: Any, lora_name: str | None) -> bytes | None:
    if names is None:
        return None
    if not isinstance(names, list):
        raise WireError("extra keys")
    return block_extra(names[1:] if names and names[0] == lora_name else names)


def _counts(counts: Any) -> Sequence[int]:
    if counts is None:
        return ()
    if not isinstance(counts, list) or not all(isinstance(count, int) and count >= 0 for count in counts):
        raise WireError("copy counts")
    return counts


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
