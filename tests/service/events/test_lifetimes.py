"""Engines that go and come: what their blocks count for meanwhile."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from service.contract.endpoints import Endpoint
from service.index.base import Rank
from service.simulation.publisher import Publisher
from tests.clock import Clock
from tests.service.events.batches import RANK, TOPIC, batch, becomes_exact, endpoint, held, state, stored
from tests.service.events.conftest import Listen
from tests.service.events.proxy import Proxy, Weather
from tests.waiting import until

CLEAR = Weather()


async def test_a_connection_that_stays_lost_takes_the_blocks_out_of_the_scores_until_it_is_back(
    listen: Listen,
) -> None:
    async with Publisher(topic=TOPIC) as publisher, Proxy(publisher.address, CLEAR) as proxy:
        clock = Clock()
        listening = await listen(Endpoint(proxy.address, replay=publisher.replay), pod_ttl=0.2, clock=clock)
        await publisher.subscribed()
        await proxy.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        await proxy.cut()
        await until(lambda: not listening.states()[RANK].connected)
        assert held(listening) == {0}
        clock.now += 0.3
        await until(lambda: not held(listening))
        assert listening.states()[RANK].connected is False
        assert state(listening) == (False, "the connection is lost")
        await proxy.mend()
        await until(lambda: held(listening) == {0})
        await becomes_exact(listening)


async def test_a_connection_that_comes_back_in_time_changes_nothing(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher, Proxy(publisher.address, CLEAR) as proxy:
        listening = await listen(Endpoint(proxy.address, replay=publisher.replay), pod_ttl=60.0)
        await publisher.subscribed()
        await proxy.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        await proxy.cut()
        await until(lambda: not listening.states()[RANK].connected)
        assert held(listening) == {0}
        publisher.publish(stored(1))
        await proxy.mend()
        await until(lambda: held(listening) == {0, 1})
        await becomes_exact(listening)
        assert listening.pool.statistics.restarts == 0


@pytest.mark.parametrize("missed", [False, True], ids=["nothing missed", "a batch missed"])
async def test_without_a_replay_socket_a_connection_that_comes_back_is_inexact_until_the_engine_clears_its_cache(
    listen: Listen, missed: bool
) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher, Proxy(publisher.address, CLEAR) as proxy:
        clock = Clock()
        listening = await listen(Endpoint(proxy.address), pod_ttl=0.2, clock=clock)
        await publisher.subscribed()
        await proxy.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        await proxy.cut()
        await until(lambda: not listening.states()[RANK].connected)
        clock.now += 0.3
        await until(lambda: not held(listening))
        if missed:
            lost = proxy.lost
            publisher.publish(stored(90))
            await until(lambda: proxy.lost == lost + 1)
        await proxy.mend()
        await proxy.subscribed()
        await until(lambda: listening.states()[RANK].connected)
        assert held(listening) == set()
        publisher.publish(stored(2))
        await until(lambda: held(listening) == {0, 2})
        unverified = "batch 1 came after the connection was lost: the engine may have restarted"
        assert state(listening) == (False, "batches 1 to 1 were lost" if missed else unverified)
        publisher.publish(batch({"type": "AllBlocksCleared"}))
        await becomes_exact(listening)


async def test_without_a_replay_socket_an_idle_engine_that_came_back_is_hidden_until_it_speaks(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher, Proxy(publisher.address, CLEAR) as proxy:
        listening = await listen(Endpoint(proxy.address), pod_ttl=60.0)
        await publisher.subscribed()
        await proxy.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        await proxy.cut()
        await until(lambda: not listening.states()[RANK].connected)
        assert held(listening) == {0}
        await proxy.mend()
        await until(lambda: listening.states()[RANK].connected)
        assert held(listening) == set()
        reason = "the connection was lost, and nothing shows yet whether something was missed"
        assert state(listening) == (False, reason)


async def test_of_engines_that_connect_to_us_only_the_one_that_leaves_is_lost(listen: Listen, folder: Path) -> None:
    address = f"ipc://{folder}/events"
    clock = Clock()
    listening = await listen(Endpoint(address), pod_ttl=0.2, clock=clock)
    leaving = Publisher(address, None, topic="kv@a@m", binds=False)
    await leaving.__aenter__()
    async with Publisher(address, None, topic="kv@b@m", binds=False) as staying:
        for publisher, number in ((leaving, 0), (staying, 1)):
            await publisher.subscribed()
            publisher.publish(stored(number))
        await listening.heard({Rank("a", "m"): 0, Rank("b", "m"): 0})
        await leaving.close()
        await until(lambda: not listening.states()[Rank("a", "m")].connected)
        clock.now += 0.3
        await until(lambda: not held(listening, Rank("a", "m")))
        assert listening.states()[Rank("a", "m")].connected is False
        assert held(listening, Rank("b", "m")) == {1}
        assert listening.states()[Rank("b", "m")].connected is True


async def test_a_pod_that_stays_away_for_long_is_forgotten(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher, Proxy(publisher.address, CLEAR) as proxy:
        listening = await listen(Endpoint(proxy.address), pod_ttl=0.02)
        await publisher.subscribed()
        await proxy.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        await proxy.cut()
        await until(lambda: not listening.states())
        assert list(listening.index.ranks()) == []


async def test_a_pod_that_was_forgotten_by_hand_is_back_with_its_next_batch(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        assert listening.pool.forget(RANK.pod) is True
        assert listening.pool.forget(RANK.pod) is False
        assert held(listening) == set()
        assert (listening.states(), list(listening.index.ranks())) == ({}, [])
        publisher.publish(stored(1))
        await listening.heard({RANK: 1})
        assert held(listening) == {0, 1}


async def test_a_socket_that_cannot_be_bound_is_a_problem_and_is_tried_again(listen: Listen, folder: Path) -> None:
    missing = folder / "later"
    listening = await listen(Endpoint(f"ipc://{missing}/events"), pod_ttl=0.1)
    (problem,) = listening.pool.problems()
    assert problem.startswith(f"cannot bind ipc://{missing}/events: ")
    missing.mkdir()
    await until(lambda: not listening.pool.problems())


async def test_an_engine_that_is_not_there_yet_is_no_problem(listen: Listen) -> None:
    listening = await listen(Endpoint("tcp://127.0.0.1:1"))
    assert listening.pool.problems() == []


async def test_the_pool_says_that_it_started(listen: Listen, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("service.events.pool")
    caplog.set_level(logging.INFO, logger.name)
    logger.addHandler(caplog.handler)  # setting up the service's own log takes all handlers off the root
    await listen(Endpoint("tcp://127.0.0.1:1"))
    logger.removeHandler(caplog.handler)
    assert "Events pool started: tcp://127.0.0.1:1" in caplog.messages


async def test_topics_outside_the_filter_are_not_heard_unless_the_endpoint_names_its_pod(listen: Listen) -> None:
    async with Publisher(topic="other@a@m") as strange, Publisher() as silent:
        strange.publish(stored(0), lost=True)
        listening = await listen(endpoint(strange), endpoint(silent, pod="b", model="m"))
        await silent.subscribed()
        await strange.subscribed()
        strange.publish(stored(1))
        silent.publish(stored(2))
        await until(lambda: listening.pool.statistics.messages_received == 1)
        await listening.heard({Rank("b", "m"): 0})


async def test_a_pod_without_any_name_is_called_by_its_address(listen: Listen, folder: Path) -> None:
    async with Publisher() as publisher:
        listening = await listen(endpoint(publisher), topic="")
        await publisher.subscribed()
        publisher.publish(stored(0))
        await listening.heard({Rank(publisher.address.removeprefix("tcp://"), "m"): 0})
