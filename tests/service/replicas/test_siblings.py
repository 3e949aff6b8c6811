"""A replica that starts beside others, and takes over their index."""

from __future__ import annotations

from pathlib import Path

from service.contract.api_keys import parse_api_keys
from service.simulation.publisher import Publisher
from tests.service.replicas.conftest import Run
from tests.service.replicas.replica import endpoint, stored, topic

ADMIN = "ops:admin+read:0123456789abcdef0123456789abcdef"


async def test_a_starting_replica_takes_over_what_its_sibling_knows(run: Run) -> None:
    async with Publisher(topic=topic("a"), buffered=1) as engine:
        followed = {"zmq_endpoint": (endpoint(engine),), "state_dir": None}
        async with run(**followed) as first:
            await engine.subscribed()
            for number in range(10):
                engine.publish(stored(number))
            await first.becomes("a", last_sequence=9, exact=True)
            async with run(**followed, bootstrap_from=first.url) as second:
                await second.ready()
                await second.becomes("a", last_sequence=9, exact=True)
                assert [await second.holds(number) for number in range(10)] == [{"a"}] * 10
                engine.publish(stored(20))
                await second.becomes("a", last_sequence=10, exact=True)


async def test_a_sibling_that_does_not_answer_is_given_up_and_the_replica_serves(run: Run) -> None:
    async with (
        Publisher(topic=topic("a")) as engine,
        run(zmq_endpoint=(endpoint(engine),), bootstrap_from="http://127.0.0.1:1", ready_replay_timeout=0.2) as replica,
    ):
        await replica.ready()
        await engine.subscribed()
        engine.publish(stored(1))
        await replica.becomes("a", last_sequence=0, exact=True)


async def test_a_replica_is_not_ready_while_it_waits_for_its_sibling(run: Run) -> None:
    async with run(zmq_endpoint=(), bootstrap_from="http://127.0.0.1:1") as replica:
        status, answer = await replica.get("/ready")
        assert status == 503
        assert "the index is being loaded from http://127.0.0.1:1: 0 blocks of 0 ranks so far" in answer["reasons"]
        assert (await replica.get("/snapshot"))[0] == 503


async def test_a_snapshot_needs_an_admin_key_where_keys_are_set(run: Run, folder: Path) -> None:
    keys = parse_api_keys(ADMIN)
    file = folder / "key"
    file.write_text(ADMIN.rpartition(":")[2])
    async with (
        Publisher(topic=topic("a")) as engine,
        run(zmq_endpoint=(endpoint(engine),), state_dir=None, api_keys=keys) as first,
    ):
        assert (await first.get("/snapshot"))[0] == 401
        await engine.subscribed()
        engine.publish(stored(1))
        first.client.headers["Authorization"] = f"Bearer {file.read_text()}"
        await first.becomes("a", last_sequence=0, exact=True)
        async with run(zmq_endpoint=(), state_dir=None, bootstrap_from=first.url, bootstrap_key_file=file) as second:
            await second.ready()
            second.client.headers["Authorization"] = first.client.headers["Authorization"]
            assert (await second.pods())["a"]["blocks"]["gpu"] == 1
