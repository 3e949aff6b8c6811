"""The routing as a library, in a small simulation of engines."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from scripts.bench.routing import costs
from scripts.route_policy import Policy


@dataclass
class Candidate:
    uncached: int


class Engines:
    """Engines that prefill one prompt at a time, in order; those of a conversation share all but the last turn."""

    def __init__(self, rates: list[float]) -> None:
        self.rates = rates
        self.free_at = [0.0] * len(rates)
        self.held: list[dict[int, int]] = [{} for _ in rates]
        self.ends: list[tuple[float, int, int, float]] = []
        self.chosen: list[int] = []

    def ask(self, policy: Policy, now: float, conversation: int, tokens: int) -> float:
        """Sends a prompt where the policy says; gives its time to first token."""
        for end in sorted(end for end in self.ends if end[0] <= now):
            self.ends.remove(end)
            when, engine, uncached, seconds = end
            policy.first_token(when, engine, uncached, seconds)
            policy.finished(when, engine)
        candidates = [Candidate(max(1, tokens - held.get(conversation, 0))) for held in self.held]
        engine = policy.choose(now, {"input_length": tokens}, candidates)
        uncached = candidates[engine].uncached
        begin = max(now, self.free_at[engine])
        end_at = self.free_at[engine] = begin + uncached / self.rates[engine]
        self.held[engine][conversation] = tokens
        self.ends.append((end_at, engine, uncached, end_at - begin))
        self.chosen.append(engine)
        return end_at - now


def test_conversations_stay_where_their_blocks_are() -> None:
    engines, policy = Engines([10_000.0] * 4), Policy()
    waits = [
        engines.ask(policy, turn * 2 + chat / 10, chat, 2000 + 100 * turn) for turn in range(8) for chat in range(8)
    ]
    assert all(len(set(engines.chosen[chat::8])) == 1 for chat in range(8))
    assert max(waits[8:]) < 0.05


def test_an_engine_of_half_the_speed_gets_half_the_prompts() -> None:
    engines, policy, random = Engines([10_000.0, 5_000.0]), Policy(), Random(1)
    for number in range(600):
        engines.ask(policy, number * 0.14, number, random.randrange(1000, 3000))
    share = engines.chosen[50:].count(1) / len(engines.chosen[50:])
    assert 0.25 < share < 0.4


def test_what_routing_costs_is_measured_for_every_request() -> None:
    measured = costs(pods=8, requests=20)
    assert len(measured) == 20
    assert all(spent.lookup > 0 and spent.routing > 0 for spent in measured)
