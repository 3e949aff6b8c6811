"""The inner loops of the service: compiled if they are built for this Python, otherwise the fallback.

KVCACHE_BACKEND=fallback always uses the fallback; KVCACHE_BACKEND=compiled fails if nothing is compiled.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from service.native.sources import is_compiled


def _choose(backend: str) -> bool:
    """Whether to use the compiled modules. Raises ImportError if they are required and missing."""
    if backend not in {"", "compiled", "fallback"}:
        raise ImportError(f"KVCACHE_BACKEND={backend}: expected compiled or fallback")
    compiled = backend != "fallback" and is_compiled()
    if backend == "compiled" and not compiled:
        raise ImportError("KVCACHE_BACKEND=compiled, but nothing is compiled: python -m service.native.build")
    return compiled


COMPILED = _choose(
    os.environ.get("KVCACHE_BACKEND") or ("fallback" if os.environ.get("KVCACHE_LOOPS") == "plain" else "")
)

if TYPE_CHECKING or not COMPILED:
    from service.native.fallback import (
        GroupMasks,
        GroupWriter,
        PodOrder,
        Positions,
        RankCosts,
        RankLoad,
        Receiver,
        Table,
        as_key_vector,
        block_keys,
        is_text_only,
        messages_end,
        messages_start,
        prompt_ids,
        read_common_batch,
        split_words,
        unpack_hashes,
        unpack_numbers,
        unpack_tokens,
    )
else:
    from service.native.batches import read_common_batch
    from service.native.chat_shape import is_text_only
    from service.native.group_writer import GroupWriter
    from service.native.hashing import block_keys
    from service.native.json_scan import messages_end, messages_start, prompt_ids
    from service.native.messages import Receiver
    from service.native.msgpack_ints import unpack_hashes, unpack_tokens
    from service.native.pod_order import PodOrder
    from service.native.rank_costs import Positions, RankCosts, RankLoad
    from service.native.table import GroupMasks, Table
    from service.native.vectors import as_key_vector, unpack_numbers
    from service.native.word_split import split_words


__all__ = [
    "COMPILED",
    "GroupMasks",
    "GroupWriter",
    "PodOrder",
    "Positions",
    "RankCosts",
    "RankLoad",
    "Receiver",
    "Table",
    "as_key_vector",
    "block_keys",
    "is_text_only",
    "messages_end",
    "messages_start",
    "prompt_ids",
    "read_common_batch",
    "split_words",
    "unpack_hashes",
    "unpack_numbers",
    "unpack_tokens",
]
