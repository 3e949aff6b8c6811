"""Block keys: our own names for blocks, chained so that a key stands for a block and all that precede it."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeAlias

import msgspec
from xxhash import xxh64_intdigest

from service.index.base import BlockKey, Prompt, TokenIds
from service.native import backend

PlainKeys: TypeAlias = Callable[[BlockKey, TokenIds, int], Sequence[BlockKey]]
"""`block_keys` without extras, possibly cached: (parent, tokens, block size) to keys."""

_TOKEN_BYTES = 4
_KEY_BITS = (1 << 60) - 1
_MAX_CACHED_NAME = 1024
"""Characters of a LoRA's name. An event may name one of megabytes, which must not stay in memory."""
_plain_block_keys = backend.block_keys  # a global lookup is faster than an attribute of a module
assert array("I").itemsize == _TOKEN_BYTES  # noqa: S101 - keys are defined over 32-bit tokens


def root_key(model: str, lora_name: str | None, block_size: int) -> BlockKey:
    """The parent key of the first block of a chain."""
    if lora_name is not None and len(lora_name) > _MAX_CACHED_NAME:
        return _root_key.__wrapped__(model, lora_name, block_size)
    return _root_key(model, lora_name, block_size)


@lru_cache(maxsize=4096)
def _root_key(model: str, lora_name: str | None, block_size: int) -> BlockKey:
    return xxh64_intdigest(msgspec.msgpack.encode((model, lora_name, block_size))) & _KEY_BITS


def block_keys(
    parent: BlockKey, tokens: TokenIds, block_size: int, extras: Sequence[bytes | None] = ()
) -> Sequence[BlockKey]:
    """One key per whole block of `tokens`; the first is chained to `parent`.

    `extras` has, per block, the other bytes that an engine hashed into it, or None; it may be shorter than the number
    of blocks.
    """
    if not extras or not any(extras):
        return _plain_block_keys(parent, tokens.tobytes(), block_size * _TOKEN_BYTES)
    whole = len(tokens) // block_size * block_size
    keys: list[BlockKey] = []
    key = parent
    for position, start in enumerate(range(0, whole, block_size)):
        block = tokens[start : start + block_size].tobytes()
        extra = extras[position] if position < len(extras) else None
        key = xxh64_intdigest(block + extra if extra else block, key) & _KEY_BITS
        keys.append(key)
    return backend.as_key_vector(keys)


def block_extra(names: Sequence[object]) -> bytes | None:
    """The extra keys that an engine hashed into one block, as bytes for `block_keys`; None without any.

    `names` may hold text (a salt), bytes (a digest of prompt embeddings), numbers and lists of them (multimodal ids).
    """
    return msgspec.msgpack.encode(names) if names else None


def salt_extra(cache_salt: str) -> bytes | None:
    """The extra bytes of a salt in the first block of a chain, for events that name it apart from `extra_keys`."""
    return block_extra([cache_salt])


def lookahead_extra(extra: bytes | None, tokens: TokenIds) -> bytes:
    """Adds the tokens after a block that the engine hashes into it (EAGLE, vLLM 0.33)."""
    return tokens.tobytes() + (extra or b"")


def prompt_keys(
    prompt: Prompt, block_size: int, lookahead: int = 0, plain_keys: PlainKeys | None = None
) -> Sequence[BlockKey]:
    """The keys of a prompt's whole blocks, for an engine that hashes `lookahead` tokens after each block into it.

    `plain_keys` computes the keys of blocks without extras; it may use a cache.
    """
    root = root_key(prompt.model, prompt.lora_name, block_size)
    has_extras = bool(prompt.cache_salt or prompt.media)
    if plain_keys is not None and not (lookahead or has_extras):
        return plain_keys(root, prompt.tokens, block_size)
    blocks = max(0, len(prompt.tokens) - lookahead) // block_size
    extras = _prompt_extras(prompt, block_size, blocks) if has_extras else []
    if not lookahead:
        return block_keys(root, prompt.tokens, block_size, extras)
    extras += [None] * (blocks - len(extras))
    looked = [
        lookahead_extra(extra, prompt.tokens[end : end + lookahead])
        for extra, end in zip(extras, range(block_size, blocks * block_size + 1, block_size), strict=True)
    ]
    return block_keys(root, prompt.tokens[: blocks * block_size], block_size, looked)


def _prompt_extras(prompt: Prompt, block_size: int, blocks: int) -> list[bytes | None]:
    """The extras of the first blocks, up to the last medium (`generate_block_hash_extra_keys`, vLLM 0.33).

    A block names each medium that it overlaps with the offset from the block's start; the first names the salt.
    """
    names: dict[int, list[object]] = {}
    for identifier, offset, length in prompt.media:
        for block in range(offset // block_size, min(-(-(offset + length) // block_size), blocks)):
            names.setdefault(block, []).append([identifier, offset - block * block_size])
    if prompt.cache_salt and blocks:
        names.setdefault(0, []).append(prompt.cache_salt)
    return [block_extra(names.get(block, ())) for block in range(max(names, default=-1) + 1)]
