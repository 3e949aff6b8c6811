"""Blocks, prompts and questions for tests of the index: a block's hash is its number, its tokens follow from it."""

from __future__ import annotations

from array import array
from typing import Any

from service.index.base import Index, Prompt, Rank, RankMatch, Stored

A, B = Rank("a", "m"), Rank("b", "m")
SIZE = 4


def tokens(*blocks: int) -> array[int]:
    """Four tokens for each block that is named."""
    return array("I", [block * SIZE + offset for block in blocks for offset in range(SIZE)])


def stored(*blocks: int, parent: int | None = None, **changes: Any) -> Stored:
    """Blocks whose hash is their number, chained in that order."""
    return Stored(**{"hashes": blocks, "parent": parent, "tokens": tokens(*blocks), "block_size": SIZE, **changes})


def prompt(*blocks: int, **changes: Any) -> Prompt:
    """A prompt of these blocks and one token more, as engines compute the last token of a prompt in any case."""
    return Prompt(**{"model": "m", "tokens": tokens(*blocks) + array("I", [0]), **changes})


def matches(index: Index, *blocks: int, **changes: Any) -> dict[Rank, int]:
    """How many of the blocks each rank holds, from the first."""
    return {match.rank: match.tokens // SIZE for match in index.match(prompt(*blocks, **changes))}


def only(index: Index, *blocks: int, **changes: Any) -> RankMatch:
    """The match of the one rank that has one."""
    (match,) = index.match(prompt(*blocks, **changes))
    return match
