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


def of_full_attention(*blocks: int, parent: int | None = None) -> Stored:
    return stored(*blocks, parent=parent, group=0, kind="full_attention")


def test_an_engine_that_computes_the_last_held_block_again_runs_eagle(index: MemoryIndex) -> None:
    index.store(A, of_full_attention(1, 2))
    index.store(A, of_full_attention(2, 3, parent=1))
    assert index.inexact_reason(A) is None, "two prompts may have been computed at once"
    index.store(A, of_full_attention(11, 12))
    index.store(A, of_full_attention(12, 13, parent=11))
    assert index.inexact_reason(A) == InexactReason.LAST_BLOCK


def test_an_engine_that_is_known_to_run_eagle_is_exact(index: MemoryIndex) -> None:
    index.drop_last_block(A)
    index.store(A, of_full_attention(1, 2))
    index.store(A, of_full_attention(2, 3, parent=1))
    assert index.inexact_reason(A) is None


def test_requests_that_compute_all_anew_or_just_their_last_block_are_no_eagle(index: MemoryIndex) -> None:
    index.store(A, of_full_attention(1, 2, 3))
    index.store(A, of_full_attention(3, parent=2))  # the same prompt again
    index.store(A, of_full_attention(1, 2))  # all anew, in two steps
    index.store(A, of_full_attention(3, 4, parent=2))
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
