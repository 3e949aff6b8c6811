"""The compiled modules under the names and types of service/native/fallback.py.

Import this only if `sources.is_compiled()`.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import cast

from service.native import json_scan, msgpack_ints, table
from service.native.batches import read_common_batch
from service.native.chat_shape import is_text_only
from service.native.hashing import block_keys
from service.native.json_scan import messages_end, messages_start
from service.native.msgpack_ints import unpack_hashes
from service.native.rank_costs import RankLoad, costs_of, near_lowest
from service.native.table import GroupMasks, Table, unpack_numbers
from service.native.word_split import split_words

_KeyVector: type = type(table.as_key_vector([]))


def as_key_vector(numbers: Sequence[int]) -> Sequence[int]:
    if type(numbers) is _KeyVector:
        return numbers
    return cast("Sequence[int]", table.as_key_vector(list(numbers)))


def unpack_tokens(packed: bytes) -> array[int] | None:
    ids = msgpack_ints.unpack_tokens(packed)
    return None if ids is None else _token_ids(ids)


def prompt_ids(body: bytes) -> tuple[array[int], int, int] | None:
    found = json_scan.prompt_ids(body)
    return None if found is None else (_token_ids(found[0]), found[1], found[2])


def _token_ids(ids: object) -> array[int]:
    tokens = array("I")
    tokens.frombytes(memoryview(cast("bytes", ids)).cast("B"))
    return tokens


__all__ = [
    "GroupMasks",
    "RankLoad",
    "Table",
    "as_key_vector",
    "block_keys",
    "costs_of",
    "is_text_only",
    "messages_end",
    "messages_start",
    "near_lowest",
    "prompt_ids",
    "read_common_batch",
    "split_words",
    "unpack_hashes",
    "unpack_numbers",
    "unpack_tokens",
]
