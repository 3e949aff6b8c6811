from __future__ import annotations

import pytest

from service.index.base import Rank, Removed
from service.index.memory import MemoryIndex
from service.simulation.workload import SETUPS, Serve, described, generate, search, smallest


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", SETUPS)
def test_no_answer_is_wrong_and_claims_to_be_exact(name: str, seed: int) -> None:
    found = search(SETUPS[name], generate(SETUPS[name], seed, 15))
    assert found is None, "\n".join(described(smallest(found)))


class Forgetless(MemoryIndex):
    """An index that no eviction reaches, and that is certain of what it says."""

    def __init__(self) -> None:
        super().__init__(1_000_000)

    def remove(self, rank: Rank, removed: Removed) -> int:
        return 0

    def inexact_reason(self, rank: Rank) -> str | None:
        return None


def test_a_wrong_index_is_found_out_with_few_operations() -> None:
    setup = SETUPS["full attention"]
    found = search(setup, generate(setup, 1, 40), Forgetless)
    assert found is not None
    found = smallest(found, Forgetless)
    assert sum(len(operation.requests) for operation in found.operations if isinstance(operation, Serve)) <= 5
    lines = list(described(found))
    assert lines[1].startswith("serve ")
    assert any("BlockRemoved GPU group 0" in line for line in lines)
    assert "and claims to be exact" in lines[-1]


def test_a_seed_gives_the_same_workload_again() -> None:
    setup = SETUPS["salts and LoRAs"]
    assert generate(setup, 5, 20) == generate(setup, 5, 20)
    assert generate(setup, 5, 20) != generate(setup, 6, 20)
