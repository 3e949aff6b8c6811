"""Publishers that lie about who they are, or flood: others' events and the rest of the network are out of reach."""

from __future__ import annotations

import zmq

from service.contract.endpoints import Endpoint
from service.index.base import Rank
from service.simulation.publisher import Publisher
from tests.service.events.batches import RANK, TOPIC, batch, becomes_exact, endpoint, held, state, stored
from tests.service.events.conftest import Listen
from tests.waiting import until


async def test_a_replay_clears_and_fills_nothing_that_its_endpoint_may_not_speak_for(listen: Listen) -> None:
    async with Publisher(topic=TOPIC) as honest, Publisher(topic=TOPIC) as liar:
        liar.publish(batch({"type": "AllBlocksCleared"}), lost=True)
        liar.publish(stored(66), lost=True)
        listening = await listen(endpoint(honest))
        await honest.subscribed()
        honest.publish(stored(0))
        await until(lambda: held(listening) == {0})
        listening.pool.follow(endpoint(liar))
        await until(lambda: listening.pool.statistics.claims_refused.total() == 1)
        assert held(listening) == {0}
        assert state(listening) == (False, "several endpoints speak for this rank")
        listening.pool.unfollow(endpoint(liar))
        await becomes_exact(listening)


async def test_a_name_that_an_engine_gives_itself_chooses_no_host_to_connect_to(listen: Listen) -> None:
    async with Publisher(topic="kv@127.0.0.2:8000@m") as victim:
        port = victim.replay.rpartition(":")[2]
        listening = await listen(Endpoint("tcp://127.0.0.1:*", replay=f"tcp://*:{port}"))
        with zmq.Context() as context, context.socket(zmq.XPUB) as liar:
            liar.linger = 0
            liar.connect(listening.pool.addresses()[0])
            await until(lambda: bool(liar.poll(0)))
            liar.send_multipart((b"kv@victim.invalid:8000@m", (5).to_bytes(8, "big"), stored(5)))
            # The replay is asked for where the engine really is: at 127.0.0.1, where the victim's socket answers.
            await until(lambda: victim.requests > 0)


async def test_a_flood_of_made_up_names_keeps_no_honest_pod_out(listen: Listen) -> None:
    async with Publisher() as liar, Publisher(topic=TOPIC) as honest:
        listening = await listen(endpoint(liar, replay=False), endpoint(honest, replay=False), max_streams=50)
        await liar.subscribed()
        await honest.subscribed()
        for number in range(1000):
            liar.publish_frames([f"kv@p{number}@m".encode(), bytes(8), stored(number)])
        await until(lambda: listening.pool.statistics.messages_received == 1000)
        honest.publish(stored(0))
        await until(lambda: RANK in listening.states() and held(listening) == {0})
        assert len(listening.states()) == 50


async def test_ranks_without_blocks_make_room_first(listen: Listen) -> None:
    async with Publisher() as publisher:
        listening = await listen(endpoint(publisher, replay=False), max_streams=2)
        await publisher.subscribed()
        publisher.publish_frames([b"kv@full@m", bytes(8), stored(0)])
        publisher.publish_frames([b"kv@empty@m", bytes(8), batch()])
        publisher.publish_frames([b"kv@new@m", bytes(8), stored(1)])
        await until(lambda: set(listening.states()) == {Rank("full", "m"), Rank("new", "m")})


async def test_a_topic_of_absurd_length_makes_no_rank(listen: Listen) -> None:
    async with Publisher() as publisher:
        listening = await listen(endpoint(publisher, replay=False))
        await publisher.subscribed()
        publisher.publish_frames([b"kv@" + b"x" * 5000 + b"@m", bytes(8), stored(0)])
        await until(lambda: listening.pool.statistics.skipped["a topic that is too long"] == 1)
        assert listening.states() == {}
