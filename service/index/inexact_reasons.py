"""Why a rank's answers may differ from what its engine would reuse, though no event was lost."""

from __future__ import annotations

from enum import StrEnum


class InexactReason(StrEnum):
    """Each value is the sentence that `/pods`, the metrics and the log show."""

    UNKNOWN_PARENT = "blocks were left out because the block before them is unknown"
    UNKNOWN_OFFLOADED = "blocks were offloaded that the index does not know"
    UNNAMED_SALT = "offloaded blocks were left out because their salt is not announced"
    SAME_TOKENS = "blocks of the same tokens have several hashes, and no field tells them apart"
    SAME_HASH = "a hash was stored again for a prompt that differs in something that no field names"
    EVICTED_HERE = "blocks were evicted from the index to keep to INDEX_MAX_BLOCKS"
    REUSE_REPORTS = "the engine reports reused blocks, which cannot be told from copies"
    UNSUPPORTED_GROUP = "a KV-cache group of an unsupported kind does not count"
    UNHEARD_GROUP = "a KV-cache group was not heard of yet"
    WINDOW_BLOCKS = "the blocks that a sliding window keeps are not all known"
    PARTIAL_BLOCKS = "the engine can reuse parts of blocks, which are left out"
    BLOCK_SIZES = "a KV-cache group has blocks of a size that does not fit the others"
    CHUNK_SIZE = "the engine offloads several blocks at a time, and their number is not announced"
    CLEARED_TIER = "the engine cleared a cache and did not say on which tier"
    REUSES_LESS = "the engine keeps reusing less than its events tell"
    REUSES_MORE = "the engine keeps reusing more than its events tell"
    LAST_BLOCK = "the engine computed a block again that it held, as EAGLE does (eagle=1 at its endpoint)"
    LATE_REMOVALS = "the engine does not announce the removal of every copy of a block"

    @property
    def outlasts_clear(self) -> bool:
        """Whether it is about how the engine works, so that an empty cache does not end it."""
        return self in _ABOUT_THE_ENGINE


_ABOUT_THE_ENGINE = frozenset(
    {
        InexactReason.SAME_HASH,
        InexactReason.REUSE_REPORTS,
        InexactReason.UNSUPPORTED_GROUP,
        InexactReason.PARTIAL_BLOCKS,
        InexactReason.BLOCK_SIZES,
        InexactReason.CHUNK_SIZE,
        InexactReason.LAST_BLOCK,
        InexactReason.LATE_REMOVALS,
    }
)
