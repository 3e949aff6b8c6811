"""The blocks of one rank as records, in which a snapshot holds them: plain values, in slices of bounded size.

A change of what a record means, or of how block keys are made, needs another version in
service/replicas/snapshot_format.py.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

_Hash: TypeAlias = int
_Key: TypeAlias = int


class GroupRecord(msgspec.Struct, array_like=True, gc=False):
    """A KV-cache group without its blocks: the fields of service.index.cache_groups.CacheGroup."""

    index: int | None
    needs: str
    window: int
    block_size: int
    unit: int
    lookahead: int
    on_device: bool
    ages: list[tuple[int, int]]
    """(admissions to the index before, blocks), oldest first."""
    shards: list[tuple[int, int]]
    """As service.native.table.Table.shards: with them the order of eviction is the same."""


class PlacementRecord(msgspec.Struct, array_like=True, gc=False):
    """As service.index.cache_groups.Placement; groups are named by their place in the rank."""

    group: int
    hashes: list[_Hash]
    keys: list[_Key]
    keys_before: list[_Key]
    last_tokens: list[int]
    followers: list[tuple[int, _Hash]]
    placed: list[_Hash]
    """The hashes that are in doubt because of it."""


class RankRecord(msgspec.Struct, array_like=True, tag=True, gc=False):
    """The first record of a rank: the fields of service.index.cache_groups.RankState."""

    admissions: int
    """Admissions to the index at the time, from which ages are counted."""
    groups: list[GroupRecord]
    inexact: str | None
    observed: str | None
    sizes: list[int]
    unsupported_groups: list[tuple[int | None, str]]
    loras: list[str]
    salted: bool
    drops_last_block: bool
    sends_reuse_reports: bool
    last_was_reuse_report: bool
    chunk_blocks: int
    lower_tier_is_pool: bool | None
    first_stores: list[tuple[_Hash | None, list[_Hash]]] | None
    placements: list[PlacementRecord]
    removes_each_copy: bool
    removes_last_copy_only: bool
    half_removed: list[_Hash]
    recomputed_last_blocks: int
    restored_after_removal: int
    resets: int | None
    """As service.index.reset_doubt.ResetDoubt; None without doubt."""
    followed: list[tuple[int, _Hash]]


class BlocksRecord(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Blocks of a group, oldest first within its part of the table: 8 bytes for each hash and key, little-endian."""

    group: int
    hashes: bytes
    keys: bytes
    tiers: list[bytes]
    """Per tier one byte for each block: whether it is there. Empty if all are on the device alone."""


class CopiesRecord(msgspec.Struct, array_like=True, tag=True, gc=False):
    """(block hash, tier, copies beyond the first)."""

    group: int
    copies: list[tuple[_Hash, int, int]]


class AliasesRecord(msgspec.Struct, array_like=True, tag=True, gc=False):
    """(block key, tier, hashes beyond the first)."""

    group: int
    counts: list[tuple[_Key, int, int]]


class AmbiguousCopiesRecord(msgspec.Struct, array_like=True, tag=True, gc=False):
    """As service.index.cache_groups.CacheGroup.ambiguous_copies."""

    group: int
    copies: list[tuple[_Hash, bool]]


class OldBlocksRecord(msgspec.Struct, array_like=True, tag=True, gc=False):
    """Blocks below the device that may be gone since a reset: (hash, copies by tier, resets, stored again)."""

    blocks: list[tuple[int, _Hash, list[tuple[int, int]], int, bool]]


BlockRecord: TypeAlias = BlocksRecord | CopiesRecord | AliasesRecord | AmbiguousCopiesRecord | OldBlocksRecord
"""All records of a rank after its first."""
