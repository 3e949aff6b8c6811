from __future__ import annotations

from collections import deque
from random import Random

import pytest

from service.index.block_ages import BlockAges


@pytest.mark.parametrize("seed", range(5))
def test_the_oldest_block_is_the_first_that_came_of_those_that_were_not_struck_off(seed: int) -> None:
    random = Random(seed)
    ages, held = BlockAges(), deque[int]()
    era = random.randrange(2)
    for _ in range(2_000):
        era += random.random() < 0.1
        blocks = random.randint(1, 5)
        held.extend([era] * blocks)
        ages.add(era, blocks, [len(held) - 1, 1, 0])
        if random.random() < 0.3:
            for _ in range(random.randint(0, len(held))):
                held.popleft()
        if random.random() < 0.2:
            assert ages.oldest(len(held)) == ((held[0], held.count(held[0])) if held else None)
