"""What makes a rank inexact, and that the documentation says so."""

from __future__ import annotations

import re

import pytest

from service.index.base import Removed, Stored
from service.index.inexact_reasons import InexactReason
from service.index.memory import MemoryIndex
from tests.conftest import ROOT
from tests.service.index.blocks import A, matches, stored, tokens


@pytest.fixture
def index() -> MemoryIndex:
    return MemoryIndex(max_blocks=10_000)


def test_the_documentation_lists_every_reason() -> None:
    page = (ROOT / "docs" / "index.md").read_text()
    listed = re.findall(r"^\| `([A-Z_]+)` \| ([^|]+?) \|", page, re.MULTILINE)
    assert listed == [(reason.name, reason.value) for reason in InexactReason]


def test_a_hash_of_other_tokens_makes_the_rank_inexact(index: MemoryIndex) -> None:
    index.store(A, stored(1, group=0, kind="full_attention"))
    index.store(A, stored(1, tokens=tokens(5), group=0, kind="full_attention"))
    assert index.inexact_reason(A) == InexactReason.SAME_HASH


def test_an_engine_that_caches_once_and_stores_a_held_block_tells_prompts_apart_by_more(index: MemoryIndex) -> None:
    index.store(A, stored(1))
    index.store(A, stored(1))
    assert index.inexact_reason(A) == InexactReason.SAME_HASH


def test_an_engine_that_names_no_groups_but_caches_twice_is_exact(index: MemoryIndex) -> None:
    index.store(A, stored(1, counts_copies=True))
    index.store(A, stored(1, counts_copies=True))
    assert index.inexact_reason(A) is None


def test_how_many_copies_are_left_is_taken_from_the_event(index: MemoryIndex) -> None:
    index.store(A, stored(1, counts_copies=True))
    index.store(A, stored(1, counts_copies=True))
    index.remove(A, Removed([1], copies_left=[1]))
    assert matches(index, 1) == {A: 1}
    index.remove(A, Removed([1], copies_left=[0]))
    assert matches(index, 1) == {}
    assert index.disagreements() == []


def test_an_engine_that_removes_only_last_copies_is_found_out(index: MemoryIndex) -> None:
    def full(*blocks: int) -> Stored:
        return stored(*blocks, group=0, kind="full_attention")

    for number in range(40):
        first, second = 10 + 2 * number, 11 + 2 * number
        index.store(A, full(first, second))
        index.store(A, full(first, second))
        index.remove(A, Removed([first], group=0))
        index.store(A, full(first, second))
    assert index.inexact_reason(A) == InexactReason.LATE_REMOVALS
    index.remove(A, Removed([first], group=0))
    assert matches(index, first) == {}
