"""The ranks that may take a request, and what they hold of its prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from service.index.base import Matches, Rank, RankMatch
from service.native.backend import Positions, RankCosts
from service.routing.cost import Demand
from service.routing.reservations import RankWork


class Candidates:
    """The ranks that serve a model. Valid as long as the fleet does not change."""

    __slots__ = ("_by_bit", "_by_name", "_names", "_positions", "demand", "numbers", "ranks")

    def __init__(self, ranks: list[RankWork], demand: Demand, names: Mapping[str, str]) -> None:
        """`names` are the pods' names by those in their events."""
        self.ranks = ranks
        self.demand = demand
        self.numbers = {rank: position for position, rank in enumerate(ranks)}
        self._names = names
        self._by_name = {(rank.pod.name, rank.number): position for position, rank in enumerate(ranks)}
        self._by_bit: Sequence[Rank] = ()
        self._positions = Positions([])

    def find(self, rank: Rank) -> int | None:
        """The position of the rank that publishes events under this name; None if it is no candidate."""
        name = self._names.get(rank.pod)
        return self._by_name.get((name, rank.number)) if name is not None else None

    def positions(self, by_bit: Sequence[Rank]) -> Positions:
        """The positions of the ranks of groups."""
        if by_bit is not self._by_bit:
            self._by_bit = by_bit
            self._positions = Positions([self.find(rank) for rank in by_bit])
        return self._positions


class Held:
    """The tokens of a prompt that candidates reuse."""

    __slots__ = ("_matches", "alone", "costs", "placed")

    def __init__(self, costs: RankCosts[RankWork], matches: Matches) -> None:
        self.costs = costs
        self.alone: dict[int, RankMatch] = {}
        """By position, matches that are in no run."""
        self.placed: dict[int, int] = {}
        """By position, the tokens of a placement."""
        self._matches = matches

    def of(self, position: int) -> RankMatch | int | None:
        """The tokens that one candidate reuses, from a match or a placement."""
        if (tokens := self.placed.get(position)) is not None:
            return tokens
        if (bit := self.costs.bit(position)) < 0:
            return self.alone.get(position)
        run = next(run for run in self._matches.runs if run.groups >> bit & 1)
        return RankMatch(self._matches.ranks[bit], run.block_size, run.tokens_by_tier)
