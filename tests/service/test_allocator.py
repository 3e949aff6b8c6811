from __future__ import annotations

import platform
import subprocess
import sys

import pytest

_BURST = """
import sys
from service.allocator import give_back_large_blocks

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

if sys.argv[1] == "give back":
    give_back_large_blocks()
del [bytes(30 << 20)][:]  # a first large block that is freed
before = resident()
texts, cached = [], []
for _ in range(40):
    texts.append(b"a" * (3 << 20))
    cached.append(b"a" * 100_000)
del texts
print(resident() - before)
"""

_FREED = """
from service.allocator import give_back_freed_pages

def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096

blocks = [bytes(2_000) for _ in range(40_000)]
stays = blocks[-1]
del blocks
before = resident()
give_back_freed_pages()
print(before - resident())
"""


def left_after_a_burst(mode: str) -> int:
    """The bytes that a process keeps after it freed 40 texts of 3 MB between which small objects stay."""
    return int(subprocess.check_output((sys.executable, "-c", _BURST, mode)))


_needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries keep memory otherwise")


@_needs_glibc
def test_the_memory_of_large_texts_is_given_back_although_small_objects_stay() -> None:
    assert left_after_a_burst("give back") < 8 << 20
    assert left_after_a_burst("default") > 40 << 20


@_needs_glibc
def test_memory_that_was_freed_below_a_block_that_stays_is_given_back() -> None:
    assert int(subprocess.check_output((sys.executable, "-c", _FREED))) > 60 << 20
