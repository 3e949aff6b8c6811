from __future__ import annotations

import pytest

from scripts.fuzz_wire import SLOW_SECONDS, fuzz
from tests.tries import tries


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_frames_are_refused_and_leave_the_index_whole(seed: int) -> None:
    outcome = fuzz(frames=tries(1_500, 15_000), seed=seed)
    assert outcome.disagreements == []
    assert outcome.slowest < SLOW_SECONDS
    assert outcome.refused
    assert outcome.skipped
