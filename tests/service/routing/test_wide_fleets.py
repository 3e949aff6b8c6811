from __future__ import annotations

from array import array
from random import Random
from time import monotonic

import pytest

from service.fleet.registry import Learned, ServedModel
from service.index.base import Matches, Prompt, Rank, Stored, Tier
from service.index.memory import MemoryIndex
from service.routing import cost
from service.routing.question import Question
from tests.service.routing.fleets import MODEL, Fleet, text
from tests.tries import tries

BLOCK = 16


class Wide:
    """Pods of several ranks, of which many hold as much of some prompts."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.fleet = Fleet(random.randrange(1, 40), ranks=random.choice((1, 1, 3)))
        self.index = MemoryIndex(1_000_000)
        self.prompts = [text(seed, 1200) for seed in range(3)]
        for number, pod in enumerate(self.fleet.pods):
            pod.weight = random.choice((1.0, 1.0, 2.0))
            names = frozenset((f"10.0.0.{number}:8000",)) if random.random() < 0.5 else frozenset[str]()
            ranks = pod.learned.ranks if pod.learned is not None else 1
            pod.learned = Learned((ServedModel(MODEL),), ranks=ranks, event_names=names)
            for rank in (Rank(name, MODEL, one) for name in (pod.name, *names) for one in range(ranks)):
                self.hold(rank)
        self.hold(Rank("a pod that is not in the fleet", MODEL))

    def hold(self, rank: Rank) -> None:
        for prompt in self.prompts:
            blocks = self.random.choice((0, 2, 32, 75))
            tier = self.random.choice((Tier.GPU, Tier.GPU, Tier.CPU))
            for held in {Tier.GPU, tier} if blocks else ():
                whole = prompt[: (blocks if held is tier else blocks // 2) * BLOCK]
                hashes = array("q", whole.tobytes()[:]).tolist()[: len(whole) // BLOCK]
                self.index.store(rank, Stored(hashes, None, whole, BLOCK, held))
        if self.random.random() < 0.1:
            self.index.drop_last_block(rank)

    def upset(self) -> None:
        """Makes some pods unable to take requests."""
        pod = self.random.choice(self.fleet.pods)
        pod.draining = self.random.random() < 0.3
        pod.busy_until = monotonic() + 1000 if self.random.random() < 0.3 else 0.0


@pytest.mark.parametrize("seed", range(tries(20, 200)))
def test_ranks_that_hold_as_much_are_chosen_as_if_each_were_looked_at(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    wide = Wide(random)
    router, index = wide.fleet.router, wide.index
    several = 0
    for number in range(30):
        wide.upset()
        prompt = Prompt(MODEL, random.choice(wide.prompts)[: random.choice((400, 1200))] + text(number, 20))
        together, alone = index.match_together(prompt), Matches(alone=index.match(prompt))
        several += len(together.runs) < len(alone.alone)
        assert together.longest == alone.longest
        foreseen = []
        for matches in (alone, together):
            monkeypatch.setattr(cost, "_random", Random(number))
            question = Question(model=MODEL, tokens=len(prompt.tokens), prompt=prompt, matches=matches)
            foreseen.append(router.foreseen(question))
        assert foreseen[0] == foreseen[1]
        monkeypatch.setattr(cost, "_random", Random(number))
        choice = router.choose(question)
        chosen = foreseen[0][0]
        if choice is None or chosen is None:
            assert choice is None
            assert chosen is None
            continue
        assert (choice.pod, choice.rank, choice.predicted) == (chosen.pod, chosen.rank, chosen.predicted)
        wide.fleet.now += random.random() / 10
        if random.random() < 0.5:
            choice.reservation.first_token(wide.fleet.now)
        if random.random() < 0.3:
            choice.reservation.end(wide.fleet.now)
    assert several or len(wide.fleet.pods) < 3


def test_a_rank_that_took_the_place_of_another_in_the_index_does_not_hold_what_that_one_held() -> None:
    fleet = Fleet(2)
    first, second = fleet.pods
    index, prompt = MemoryIndex(1000), Prompt(MODEL, text(1))
    index.store(Rank(first.name, MODEL), Stored(list(range(1, 65)), None, prompt.tokens, BLOCK))
    earlier = Question(model=MODEL, tokens=1024, matches=index.match_together(prompt))
    index.forget(Rank(first.name, MODEL))
    while index.sweep(1000):
        pass
    index.store(Rank(second.name, MODEL), Stored([1], None, text(2, BLOCK), BLOCK))
    assert len(index.match_together(prompt).ranks) == 1
    for _ in range(3):
        choice = fleet.router.choose(earlier)
        assert choice is not None
        assert choice.pod is first
        choice.reservation.end(fleet.now)
