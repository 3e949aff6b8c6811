"""Two replicas with the same fleet, each with a router of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from service.index.base import Prompt
from service.replicas.choices import SharedChoices
from service.replicas.shared.state import SharedState
from service.routing.choice import Choice
from service.routing.question import Question
from tests.service.replicas.shared.joined import Between, Joined
from tests.service.routing.fleets import MODEL, Fleet, text


class Replica:
    def __init__(self, between: Between, name: str, pods: int = 2) -> None:
        self.fleet = Fleet(pods)
        self.carrier: Joined = between.carrier()
        self.state = SharedState(self.carrier, name)
        self.choices = SharedChoices(self.state, self.fleet.router, lambda: self.fleet.now)

    def load(self) -> list[int]:
        return [pod.in_flight for pod in self.fleet.pods]

    def elsewhere(self) -> list[int]:
        return [pod.in_flight_elsewhere for pod in self.fleet.pods]

    def of_session(self, session: str) -> Choice:
        choice = self.fleet.router.choose(Question(model=MODEL, session=session))
        assert choice is not None
        return choice


@pytest.fixture
async def replicas() -> AsyncIterator[tuple[Replica, Replica]]:
    between = Between()
    first, second = Replica(between, "host-1"), Replica(between, "host-2")
    for one in (first, second):
        await one.state.start()
    yield first, second
    for one in (first, second):
        await one.state.close()


async def test_a_request_counts_at_all_replicas_until_it_ends(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    choice = first.fleet.choose(2000)
    at = first.fleet.pods.index(choice.pod)
    assert first.load() == second.load() == [int(at == number) for number in range(2)]
    assert (sum(first.elsewhere()), sum(second.elsewhere())) == (0, 1)
    assert second.fleet.choose(2000).pod.name != choice.pod.name
    choice.reservation.first_token(1001.0)
    choice.reservation.end(1002.0)
    assert sum(first.load()) == sum(second.load()) == 1
    assert sum(second.elsewhere()) == 0


async def test_a_prompt_of_one_replica_is_a_placement_at_the_others(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    tokens = text(1, 4096)
    chosen = first.fleet.ask(tokens)
    for _ in range(3):
        again = second.fleet.ask(tokens)
        assert (again.pod.name, again.predicted) == (chosen.pod.name, 4095)
    chosen.reservation.end(second.fleet.now)  # without an answer
    held = second.fleet.router.placements.held
    prompt = Prompt(MODEL, tokens)
    keys = second.fleet.router.placements.keys(prompt)
    assert all(placement.rank.pod.name == chosen.pod.name for _, placement in held(prompt, keys, 1000.0).values())


async def test_a_session_goes_back_to_its_pod_at_any_replica(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    for number in range(8):
        choice = first.of_session(f"user={number}")
        choice.reservation.end(1000.0)
        again = second.of_session(f"user={number}")
        assert again.pod.name == choice.pod.name
        again.reservation.end(1000.0)


async def test_the_load_of_a_replica_that_is_gone_ends(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    first.fleet.choose()
    first.fleet.choose()
    assert second.load() == [1, 1]
    await first.state.close()
    assert (second.load(), second.elsewhere()) == ([0, 0], [0, 0])


async def test_what_was_not_heard_is_made_good_by_what_is_told_once_per_second(
    replicas: tuple[Replica, Replica],
) -> None:
    first, second = replicas
    ended = first.fleet.choose()
    second.carrier.is_cut = True
    ended.reservation.end(1000.0)
    decoding = first.fleet.choose()
    decoding.reservation.first_token(1000.0)
    first.fleet.choose()
    second.carrier.mend()
    first.choices._tell_all()
    assert second.load() == first.load()
    assert sum(second.load()) == 2
    rank = second.fleet.router._work[second.fleet.pods[first.fleet.pods.index(decoding.pod)]][0]
    assert (rank.requests, len(rank.prefills)) == (1, 0)


async def test_a_pod_that_another_replica_does_not_know_is_no_harm(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    pod = first.fleet.add(7)
    others = tuple(one for one in first.fleet.registry if one is not pod)
    first.fleet.choose(tried=others)
    assert second.load() == [0, 0]
    second.fleet.pods.append(second.fleet.add(7))
    first.choices._tell_all()
    assert second.load() == [0, 0, 1]


async def test_a_reservation_may_be_ended_at_any_replica(replicas: tuple[Replica, Replica]) -> None:
    first, second = replicas
    name = first.fleet.router.issued.issue(first.fleet.choose().reservation, 600.0)
    assert await second.choices.first_token_elsewhere(name)
    assert sum(first.load()) == sum(second.load()) == 1
    assert await second.choices.end_elsewhere(name, is_computed=True)
    assert sum(first.load()) == sum(second.load()) == 0
    assert not await second.choices.end_elsewhere(name, is_computed=True)
    new = first.fleet.router.issued.issue(first.fleet.choose().reservation, 600.0)
    later = new.replace("-1-", "-2-")
    for unknown in ("x", "1-y-z", "3-0-z", name, later):
        assert not await second.choices.end_elsewhere(unknown, is_computed=True)
