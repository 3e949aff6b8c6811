"""Sequence numbers: what is next, what is missing, what was there before, and an engine that begins anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from service.contract.endpoints import Endpoint
from service.index.base import Rank
from service.simulation.publisher import Publisher
from tests.service.events.batches import (
    NEVER,
    RANK,
    TOPIC,
    batch,
    becomes_exact,
    endpoint,
    held,
    introduced,
    state,
    stored,
)
from tests.service.events.conftest import Listen
from tests.waiting import reserved_port, until


@pytest.fixture
def addresses() -> Iterator[tuple[str, str]]:
    """Where an engine publishes and replays, and where it may begin anew."""
    with reserved_port() as events, reserved_port() as replay:
        yield f"tcp://127.0.0.1:{events}", f"tcp://127.0.0.1:{replay}"


async def test_a_lost_batch_is_replayed_and_applied_in_order(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher), first_check=NEVER)
        await introduced(publisher)
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        publisher.publish(batch({"type": "BlockRemoved", "block_hashes": [0]}), lost=True)
        publisher.publish(stored(1), lost=True)
        publisher.publish(stored(2))
        await listening.heard({RANK: 3})
        assert held(listening) == {1, 2}
        await becomes_exact(listening)
        assert listening.pool.statistics.gaps == 1


async def test_replies_without_a_topic_are_understood(listen: Listen) -> None:
    async with Publisher(topic=TOPIC, repeats_topic=False) as publisher:
        listening = await listen(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(stored(0))
        publisher.publish(stored(1), lost=True)
        publisher.publish(stored(2))
        await listening.heard({RANK: 2})
        assert held(listening) == {0, 1, 2}


async def test_without_a_replay_socket_a_loss_makes_the_rank_inexact_until_it_is_cleared(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher, replay=False))
        await publisher.subscribed()
        publisher.publish(stored(0))
        publisher.publish(stored(1), lost=True)
        publisher.publish(stored(2))
        await listening.heard({RANK: 2})
        assert held(listening) == {0, 2}
        assert state(listening) == (False, "batches 1 to 1 were lost")
        assert listening.pool.statistics.batches_lost == 1
        publisher.publish(batch({"type": "AllBlocksCleared"}))
        await listening.heard({RANK: 3})
        assert held(listening) == set()
        await becomes_exact(listening)


async def test_a_replay_that_no_longer_reaches_back_makes_the_rank_inexact(listen: Listen) -> None:
    async with Publisher(topic=TOPIC, buffered=2) as publisher:
        listening = await listen(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        for number in range(1, 5):
            publisher.publish(stored(number), lost=True)
        publisher.publish(stored(5))
        await listening.heard({RANK: 5})
        assert held(listening) == {0, 4, 5}
        assert state(listening) == (False, "batches 1 to 3 were lost")


async def test_a_replay_socket_that_does_not_answer_makes_the_rank_inexact(listen: Listen, folder: Path) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(Endpoint(publisher.address, replay=f"ipc://{folder}/nobody"), replay_timeout=0.1)
        await publisher.subscribed()
        publisher.publish(stored(0))
        publisher.publish(stored(1), lost=True)
        publisher.publish(stored(2))
        await listening.heard({RANK: 2})
        assert held(listening) == {0, 2}
        assert state(listening) == (False, "batches 1 to 1 were lost")


async def test_a_replay_socket_that_does_not_answer_yet_stops_nobody(listen: Listen, folder: Path) -> None:
    other = Rank("b", "m")
    async with Publisher(topic=TOPIC) as publisher, Publisher(topic="kv@b@m") as live:
        listening = await listen(Endpoint(publisher.address, replay=f"ipc://{folder}/nobody"), endpoint(live))
        await publisher.subscribed()
        await live.subscribed()
        publisher.publish(stored(0))
        publisher.publish(stored(1), lost=True)
        publisher.publish(stored(2))
        await until(lambda: listening.pool.waiting() == 1)
        live.publish(stored(3))
        await until(lambda: held(listening, other) == {3})
        await becomes_exact(listening, other)
        assert (held(listening), listening.pool.waiting()) == ({0}, 1)


async def test_joining_late_asks_for_everything_before(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        for number in range(5):
            publisher.publish(stored(number), lost=True)
        listening = await listen(endpoint(publisher))
        await listening.heard({RANK: 4})
        assert held(listening) == {0, 1, 2, 3, 4}
        await becomes_exact(listening)


async def test_joining_late_without_a_replay_socket_is_inexact(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher:
        publisher.publish(stored(0), lost=True)
        listening = await listen(endpoint(publisher, replay=False))
        await publisher.subscribed()
        publisher.publish(stored(1))
        await listening.heard({RANK: 1})
        assert state(listening) == (False, "joined at batch 1; what came before is unknown")


async def test_an_engine_whose_replies_have_no_topic_is_joined_late_when_it_speaks_or_has_a_name(
    listen: Listen,
) -> None:
    async with Publisher(topic=TOPIC, repeats_topic=False) as publisher, Publisher(repeats_topic=False) as nameless:
        publisher.publish(stored(0), lost=True)
        nameless.publish(stored(1), lost=True)
        listening = await listen(endpoint(publisher), endpoint(nameless, pod="b", model="m"))
        await listening.heard({Rank("b", "m"): 0})
        await publisher.subscribed()
        publisher.publish(stored(2))
        await listening.heard({Rank("b", "m"): 0, RANK: 1})
        assert held(listening) == {0, 2}


async def test_the_loss_of_a_last_batch_is_found_when_nothing_more_comes(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher), pod_ttl=0.1)
        await publisher.subscribed()
        publisher.publish(stored(0))
        await listening.heard({RANK: 0})
        publisher.publish(stored(1), lost=True)
        await listening.heard({RANK: 1})
        assert held(listening) == {0, 1}


async def test_a_repeated_batch_is_dropped(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher), first_check=NEVER)
        await introduced(publisher)
        payloads = [stored(0), batch({"type": "BlockRemoved", "block_hashes": [0]})]
        for sequence, payload in [*enumerate(payloads), (0, payloads[0]), (2, stored(2)), (1, payloads[1])]:
            publisher.publish(payload, sequence=sequence)
        await until(lambda: listening.pool.statistics.batches_repeated == 2)
        assert held(listening) == {2}
        assert listening.pool.statistics.restarts == 0


async def test_a_restarted_engine_has_lost_its_blocks(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher, replay=False))
        await publisher.subscribed()
        for number in range(3):
            publisher.publish(stored(number))
        await listening.heard({RANK: 2})
        publisher.publish(stored(7), sequence=0)
        await listening.heard({RANK: 0})
        assert held(listening) == {7}
        await becomes_exact(listening)
        assert listening.pool.statistics.restarts == 1


async def test_a_restart_whose_first_batches_are_missed_is_inexact_without_a_replay_socket(listen: Listen) -> None:
    async with Publisher(replay=None, topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher, replay=False))
        await publisher.subscribed()
        for number in range(5):
            publisher.publish(stored(number))
        await listening.heard({RANK: 4})
        publisher.publish(stored(9), sequence=2)
        await listening.heard({RANK: 2})
        assert held(listening) == {9}
        assert state(listening) == (False, "joined at batch 2; what came before is unknown")


async def test_ranks_on_one_topic_have_sequences_of_their_own(listen: Listen) -> None:
    ranks = [RANK, RANK._replace(number=1)]
    async with AsyncExitStack() as stack:
        publishers = [await stack.enter_async_context(Publisher(topic=TOPIC)) for _ in ranks]
        listening = await listen(*map(endpoint, publishers))
        for rank, publisher in zip(ranks, publishers, strict=True):
            await publisher.subscribed()
            for number in range(3):
                publisher.publish(stored(number + 10 * rank.number, rank=rank.number), lost=number == 1)
        await listening.heard({ranks[0]: 2, ranks[1]: 2})
        assert held(listening, ranks[0]) == {0, 1, 2}
        assert held(listening, ranks[1]) == {10, 11, 12}


async def test_a_replay_socket_of_another_rank_is_not_believed(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher, Publisher(topic=TOPIC) as other:
        for number in range(4):
            other.publish(stored(50 + number, rank=1), lost=True)
        listening = await listen(Endpoint(publisher.address, replay=other.replay))
        await publisher.subscribed()
        publisher.publish(stored(0))
        publisher.publish(stored(1), lost=True)
        publisher.publish(stored(2))
        await until(lambda: RANK in listening.states() and listening.states()[RANK].last_sequence == 2)
        assert held(listening) == {0, 2}
        assert state(listening)[0] is False


async def test_an_engine_that_connects_to_us_is_asked_for_a_replay_where_its_pod_is(
    listen: Listen, folder: Path
) -> None:
    address = f"ipc://{folder}/events"
    async with Publisher(address, "tcp://127.0.0.1:*", topic="kv@127.0.0.1:8000@m", binds=False) as publisher:
        listening = await listen(
            Endpoint(address, replay=f"tcp://*:{publisher.replay.rpartition(':')[2]}", hosts="127.0.0.*")
        )
        await publisher.subscribed()
        publisher.publish(stored(0), lost=True)
        publisher.publish(stored(1))
        await listening.heard({Rank("127.0.0.1:8000", "m"): 1})
        assert held(listening, Rank("127.0.0.1:8000", "m")) == {0, 1}


@pytest.mark.parametrize("replay", [True, False], ids=["with a replay socket", "without one"])
async def test_an_engine_process_that_ends_and_begins_anew_has_lost_its_blocks(
    listen: Listen, addresses: tuple[str, str], replay: bool
) -> None:
    first = Publisher(*addresses, topic=TOPIC, binds=True)
    await first.__aenter__()
    # A request that the first engine leaves unanswered ends soon.
    listening = await listen(endpoint(first, replay=replay), replay_timeout=1.0)
    await first.subscribed()
    for number in range(3):
        first.publish(stored(number))
    await listening.heard({RANK: 2})
    await first.close()
    await until(lambda: not listening.states()[RANK].connected)
    async with Publisher(*addresses, topic=TOPIC, binds=True) as second:
        await second.subscribed()
        # The very batch that was first before: after a lost connection even that is a restart.
        second.publish(stored(0))
        await until(lambda: held(listening) == {0})
        await becomes_exact(listening)
        assert listening.pool.statistics.restarts == 1


async def test_an_engine_that_restarted_and_went_past_its_old_number_is_noticed_by_its_replay(
    listen: Listen, addresses: tuple[str, str]
) -> None:
    first = Publisher(*addresses, topic=TOPIC, binds=True)
    await first.__aenter__()
    listening = await listen(endpoint(first), replay_timeout=1.0)
    await first.subscribed()
    for number in range(3):
        first.publish(stored(number))
    await listening.heard({RANK: 2})
    await first.close()
    async with Publisher(*addresses, topic=TOPIC, binds=True) as second:
        for number in range(6):
            second.publish(stored(20 + number), lost=True)
        await listening.heard({RANK: 5})
        assert held(listening) == set(range(20, 26))
        await becomes_exact(listening)


async def test_a_flood_waits_in_the_sockets_and_nothing_is_lost(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher), queue_batches=10, first_check=NEVER)
        await introduced(publisher)
        for number in range(3000):
            publisher.publish(stored(number))
        await listening.heard({RANK: 2999})
        assert listening.pool.statistics.gaps == 0
        await becomes_exact(listening)


async def test_a_batch_that_cannot_be_read_stops_nothing_and_is_told(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher))
        await publisher.subscribed()
        publisher.publish(stored(0))
        publisher.publish(b"\xc1 no msgpack")
        publisher.publish(batch({"type": "BlockStored", "block_hashes": "?"}))
        publisher.publish(stored(3))
        await listening.heard({RANK: 3})
        assert held(listening) == {0, 3}
        assert listening.pool.statistics.skipped["block hashes"] >= 1
        assert listening.pool.statistics.skipped["no msgpack"] >= 1
        assert state(listening) == (False, "an event could not be read (no msgpack)")


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"", b""],
        [b"", bytes(8)],
        [b"", b"short", b""],
        [b"", bytes(8), b"", b""],
        [b"", b"", bytes(8), b"", b""],
    ],
)
async def test_a_message_of_other_frames_is_counted_and_the_next_ones_are_taken(
    listen: Listen, frames: list[bytes]
) -> None:
    async with Publisher(topic=TOPIC) as publisher:
        listening = await listen(endpoint(publisher), first_check=NEVER)
        await introduced(publisher)
        publisher.publish(stored(0))
        for _ in range(2):
            publisher.publish_frames([TOPIC.encode() + frames[0], *frames[1:]])
            publisher.publish(stored(1))
        await listening.heard({RANK: 2})
        assert listening.pool.statistics.skipped == {"frames": 2}
        assert listening.pool.statistics.gaps == 0


async def test_a_rank_belongs_to_the_endpoint_that_spoke_first_and_is_inexact_while_another_claims_it(
    listen: Listen,
) -> None:
    async with Publisher(replay=None, topic=TOPIC) as one, Publisher(replay=None, topic=TOPIC) as other:
        listening = await listen(endpoint(one, replay=False), endpoint(other, replay=False))
        await one.subscribed()
        await other.subscribed()
        one.publish(stored(0))
        await until(lambda: held(listening) == {0})
        other.publish(stored(1))
        await until(lambda: listening.pool.statistics.claims_refused.total() == 1)
        assert held(listening) == {0}
        assert state(listening) == (False, "several endpoints speak for this rank")
        assert list(listening.states()[RANK].claimants) == list(listening.pool.statistics.claims_refused)
        assert listening.pool.statistics.claims_refused == {other.address: 1}
        assert len(listening.pool.streams()) == 1
