"""Blocks that a rank will hold because a request was sent there, until its events say so. Kept beside the index.

A placement lasts five seconds at most, and ends as soon as a lookup shows its blocks. With the first token of its
request the prompt is computed, and its events are applied or on their way: it ends with the next events of the rank,
which may tell of evictions, and soon after without any. A request that ends before its first token is not known to have
computed anything: its placement ends with it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import Final

from service.index.base import BlockKey, Prompt, TokenIds
from service.index.keys import prompt_keys
from service.routing.reservations import RankWork

UNIT: Final = 512
"""Tokens between two keys of a placement. Shorter prefixes are computed at once, wherever they go."""
BLOCK: Final = 16
"""The smallest block size of engines: what two prompts share is counted in these."""
_SECONDS: Final = 5.0
EVENT_SECONDS: Final = 0.5
"""How long events may take after the token that they belong to."""


class Placement:
    """The whole blocks of one prompt on one rank; others may hold the same blocks there."""

    __slots__ = ("_computed_at", "expires", "keys", "rank", "tokens")

    def __init__(self, rank: RankWork, tokens: TokenIds, keys: Sequence[BlockKey], expires: float) -> None:
        self.rank = rank
        self.tokens = tokens
        self.keys = keys
        self.expires = expires
        self._computed_at = inf

    def counts(self, now: float) -> bool:
        """Whether it still counts; if not, it never will."""
        return self.expires > now and self.rank.heard_at < self._computed_at

    def computed(self, now: float) -> None:
        """Notes the first token."""
        if self._computed_at == inf:
            self._computed_at = now
            self.expires = min(self.expires, now + EVENT_SECONDS)

    def end(self) -> None:
        self.expires = 0.0


class Placements:
    """All placements, by block and rank. A block's last placement on a rank counts."""

    def __init__(self) -> None:
        self._blocks: dict[BlockKey, Placement | dict[RankWork, Placement]] = {}
        """By rank only where several have the block: most prompts go to one."""
        self._by_age: deque[tuple[float, Placement]] = deque()

    def __len__(self) -> int:
        return len(self._by_age)

    def keys(self, prompt: Prompt) -> Sequence[BlockKey]:
        return prompt_keys(prompt, UNIT) if len(prompt.tokens) > UNIT else ()

    def held(self, prompt: Prompt, keys: Sequence[BlockKey], now: float) -> dict[RankWork, tuple[int, Placement]]:
        """The tokens that each rank will hold of a prompt with these keys, and the placement of the last of them.

        Forgets placements that count no more, so that each is seen in vain only once.
        """
        found: dict[RankWork, tuple[int, Placement]] = {}
        if not self._blocks or prompt.skips_cache:
            return found
        tokens = 0
        for key in keys:
            holders = self._blocks.get(key)
            if holders is None:
                break
            reached = tokens
            tokens += UNIT
            over: list[RankWork] = []
            for placement in (holders,) if isinstance(holders, Placement) else holders.values():
                rank = placement.rank
                if not placement.counts(now):
                    over.append(rank)
                elif not reached or (rank in found and found[rank][0] == reached):
                    found[rank] = tokens, placement
            if over:
                self._forget(key, holders, over)
        asked = prompt.tokens
        for rank, (reached, placement) in found.items():
            placed = placement.tokens
            # Prompts that share their start seldom share more, and many ranks may have one of these.
            if reached < min(len(placed), len(asked)) and placed[reached] == asked[reached]:
                found[rank] = reached + _shared(placed, asked, reached), placement
        return found

    def _forget(self, key: BlockKey, holders: Placement | dict[RankWork, Placement], over: Sequence[RankWork]) -> None:
        """Removes placements of one block."""
        if isinstance(holders, dict):
            for rank in over:
                del holders[rank]
            if holders:
                return
        del self._blocks[key]

    def place(self, tokens: TokenIds, keys: Sequence[BlockKey], rank: RankWork, now: float) -> Placement:
        """Notes that a prompt with these keys was sent to a rank. O(keys).

        Without its `tokens`, only those before the last key count.
        """
        self._expire(now)
        placement = Placement(rank, tokens, keys, now + _SECONDS)
        self._by_age.append((placement.expires, placement))
        blocks = self._blocks
        for key in keys:
            holders = blocks.get(key)
            if holders is None:
                blocks[key] = placement
            elif not isinstance(holders, Placement):
                holders[rank] = placement
            else:
                blocks[key] = placement if holders.rank is rank else {holders.rank: holders, rank: placement}
        return placement

    def _expire(self, now: float) -> None:
        while self._by_age and self._by_age[0][0] <= now:
            _, placement = self._by_age.popleft()
            for key in placement.keys:
                holders = self._blocks.get(key)
                if holders is placement:
                    del self._blocks[key]
                elif isinstance(holders, dict) and holders.get(placement.rank) is placement:
                    del holders[placement.rank]
                    if not holders:
                        del self._blocks[key]


def _shared(first: TokenIds, second: TokenIds, start: int) -> int:
    """The tokens that two prompts share from `start` on, in whole blocks, up to the next key."""
    end = min(len(first), len(second), start + UNIT)
    at = start
    while at + BLOCK <= end and first[at : at + BLOCK] == second[at : at + BLOCK]:
        at += BLOCK
    return at - start
