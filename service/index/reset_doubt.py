"""Blocks below the device that may be gone since a reset, and which events tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import msgspec

from service.index.base import BlockHash, Stored, Tier


class Place(NamedTuple):
    """A block of a KV-cache group; `bit` stands for the group."""

    bit: int
    block_hash: BlockHash


class OldBlock(msgspec.Struct, gc=False):
    """A block that was stored before a reset."""

    copies: Mapping[Tier, int]
    resets: int
    """Number of the first reset after it was stored."""
    stored_again: bool = False
    """Whether it was stored since: then its removal tells nothing."""


class ResetDoubt:
    """The doubt after resets of a rank that has blocks below the device."""

    __slots__ = ("blocks", "followed", "resets")

    def __init__(self, resets: int = 0) -> None:
        self.blocks: dict[Place, OldBlock] = {}
        self.resets = resets
        self.followed: set[Place] = set()
        """Blocks that others were stored behind, and that were not stored themselves."""

    def note_reset(self, held: Iterable[tuple[Place, Mapping[Tier, int]]]) -> None:
        """`held` are all blocks below the device, with the number of copies by tier."""
        self.followed.clear()
        for place, copies in held:
            if place not in self.blocks:
                self.blocks[place] = OldBlock(copies, self.resets)
        self.resets += 1

    def stored(self, bit: int, stored: Stored) -> list[tuple[Place, OldBlock]]:
        """Learns from a store below the device, before it is applied; gives the blocks that it shows to be gone.

        A connector stores no chunk that it holds; its last hash names a chunk. A block pool stores copies, too.
        """
        gone: list[tuple[Place, OldBlock]] = []
        last = self.blocks.get(Place(bit, stored.hashes[-1]))
        if last is not None and not last.stored_again and not stored.is_pool:
            gone = [(place, old) for place, old in self.blocks.items() if old.resets <= last.resets]
            for place, _ in gone:
                del self.blocks[place]
        for block_hash in stored.hashes:
            if (old := self.blocks.get(Place(bit, block_hash))) is not None:
                old.stored_again = True
        if stored.parent is not None and not stored.is_pool:
            self.followed.add(Place(bit, stored.parent))
        return gone

    def removed(self, bit: int, block_hash: BlockHash) -> None:
        """Learns from a removal below the device: an old block was still there."""
        old = self.blocks.pop(Place(bit, block_hash), None)
        if old is not None and not old.stored_again:
            self._keep(old.resets)

    def settle(self) -> bool:
        """Uses what whole batches tell; to be called between batches. True if nothing is in doubt any more.

        A connector offers every block of a prompt, from the first on: one that it does not store again is there.
        """
        for place in self.followed:
            old = self.blocks.get(place)
            if old is not None and not old.stored_again:
                self._keep(old.resets)
        self.followed.clear()
        return not self.blocks

    def _keep(self, resets: int) -> None:
        """The resets from this one on emptied nothing below the device."""
        self.blocks = {place: old for place, old in self.blocks.items() if old.resets < resets}
        self.resets = resets
