"""A service that starts again with its snapshot, and real publishers that went on, were idle, or restarted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service.contract.endpoints import Endpoint
from service.contract.settings import Settings
from service.simulation.publisher import Publisher
from tests.service.replicas.conftest import Run
from tests.service.replicas.replica import Replica, endpoint, eventually, stored, topic
from tests.waiting import until

NOT_HEARD = "its blocks are from a snapshot, and the engine was not heard since"


async def fill(replica: Replica, publisher: Publisher, pod: str, blocks: int) -> None:
    """Publishes blocks 0, 1, … until the service is known to have all of them."""
    await publisher.subscribed()
    for number in range(blocks):
        publisher.publish(stored(number))
    await replica.becomes(pod, last_sequence=blocks - 1, exact=True)


@pytest.mark.parametrize("missed", [0, 1, 5])
async def test_a_restarted_service_knows_what_it_knew_and_what_it_missed(run: Run, missed: int) -> None:
    async with Publisher(topic=topic("a")) as engine:
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            await fill(replica, engine, "a", 3)
        for number in range(missed):
            engine.publish(stored(10 + number))
        before = engine.requests
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            await replica.ready()
            await replica.becomes("a", last_sequence=2 + missed, exact=True)
            for number in (0, 1, 2, *range(10, 10 + missed)):
                assert await replica.holds(number) == {"a"}
            engine.publish(stored(50))
            await replica.becomes("a", last_sequence=3 + missed, exact=True)
        assert engine.requests > before


async def test_blocks_beyond_the_replay_socket_come_from_the_snapshot(run: Run) -> None:
    async with Publisher(topic=topic("a"), buffered=2) as engine:
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            await fill(replica, engine, "a", 10)
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            await replica.becomes("a", last_sequence=9, exact=True)
            assert await replica.holds(0) == {"a"}


async def test_a_gap_that_the_replay_socket_cannot_bridge_makes_the_rank_inexact(run: Run) -> None:
    async with Publisher(topic=topic("a"), buffered=2) as engine:
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            await fill(replica, engine, "a", 3)
        for number in range(3, 10):
            engine.publish(stored(number))
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            shown = await replica.becomes("a", last_sequence=9)
            assert shown["inexact_reason"] == "batches 3 to 7 were lost"
            engine.publish(stored(20))
            await replica.becomes("a", last_sequence=10)
            assert [await replica.holds(number) for number in (0, 5, 9)] == [{"a"}, set(), {"a"}]


async def test_a_gap_that_nothing_bridges_empties_the_rank_if_told_so(run: Run) -> None:
    async with Publisher(topic=topic("a"), buffered=2) as engine:
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            await fill(replica, engine, "a", 3)
        for number in range(3, 10):
            engine.publish(stored(number))
        async with run(zmq_endpoint=(endpoint(engine),), snapshot_unverified="drop") as replica:
            await replica.becomes("a", last_sequence=9)
            engine.publish(stored(20))
            shown = await replica.becomes("a", last_sequence=10)
            assert not shown["exact"]
            assert [await replica.holds(number) for number in (0, 5, 9)] == [set(), set(), {"a"}]


async def test_an_engine_that_restarted_meanwhile_loses_its_old_blocks(run: Run) -> None:
    async with Publisher(topic=topic("a")) as engine:
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            await fill(replica, engine, "a", 5)
        engine.forget()
        engine.sequence = 0
        for number in range(20, 30):
            engine.publish(stored(number, life=1))
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            asked = [await replica.holds(number) for number in range(5)]
            await replica.becomes("a", last_sequence=9, exact=True)
            asked += [await replica.holds(number) for number in range(5)]
            assert asked == [set()] * 10
            assert await replica.holds(20) == await replica.holds(29) == {"a"}


async def test_an_engine_that_restarted_and_is_idle_loses_its_old_blocks(run: Run) -> None:
    async with Publisher(topic=topic("a")) as engine:
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            await fill(replica, engine, "a", 5)
            asked = engine.requests
            await until(lambda: engine.requests > asked + 1)  # the socket was seen to repeat an applied batch
        engine.forget()
        engine.sequence = 0
        async with run(zmq_endpoint=(endpoint(engine),)) as replica:
            await replica.becomes("a", exact=True)
            assert [await replica.holds(number) for number in range(5)] == [set()] * 5
            assert set(await replica.pods()) == {"a"}, "the endpoint is heard, through its replay socket"


async def test_without_a_replay_socket_blocks_count_and_are_inexact(run: Run) -> None:
    async with Publisher(topic=topic("a"), replay=None) as engine:
        async with run(zmq_endpoint=(endpoint(engine, replay=False),)) as replica:
            await fill(replica, engine, "a", 3)
        engine.publish(stored(3))
        async with run(zmq_endpoint=(endpoint(engine, replay=False),)) as replica:
            await replica.ready()
            shown = (await replica.pods())["a"]
            reason = "no replay socket can tell whether this is the engine of the snapshot"
            assert shown["inexact_reason"] == reason
            assert await replica.holds(0) == {"a"}
            engine.publish(stored(4))
            await replica.becomes("a", last_sequence=4, inexact_reason=reason)
            assert [await replica.holds(number) for number in (0, 3, 4)] == [{"a"}, set(), {"a"}]


async def test_without_a_replay_socket_a_restart_is_told_by_the_first_batches(run: Run) -> None:
    async with Publisher(topic=topic("a"), replay=None) as engine:
        async with run(zmq_endpoint=(endpoint(engine, replay=False),)) as replica:
            await fill(replica, engine, "a", 3)
        engine.sequence = 0
        engine.publish(stored(20, life=1))
        async with run(zmq_endpoint=(endpoint(engine, replay=False),)) as replica:
            await replica.becomes("a", connected=True)
            engine.publish(stored(21, life=1))
            await replica.becomes("a", last_sequence=1)
            assert [await replica.holds(number) for number in (0, 2, 21)] == [set(), set(), {"a"}]


async def test_engines_that_connect_to_the_service_continue_too(run: Run, folder: Path) -> None:
    address = f"ipc://{folder}/bound"
    bound = (Endpoint(address),)
    async with run(zmq_endpoint=bound) as replica, Publisher(address, None, topic=topic("a"), binds=False) as engine:
        await fill(replica, engine, "a", 3)
    async with run(zmq_endpoint=bound) as replica:
        await replica.becomes("a", inexact_reason=NOT_HEARD)
        assert await replica.holds(0) == set()
        async with Publisher(address, None, topic=topic("a"), binds=False) as engine:
            await engine.subscribed()
            engine.publish(stored(9), sequence=3)
            shown = await replica.becomes("a", last_sequence=3)
            assert shown["inexact_reason"] == "batch 3 came after the snapshot: the engine may have restarted"
            assert await replica.holds(0) == {"a"}


async def test_an_idle_engine_that_is_at_another_address_is_recognised_by_its_replay_socket(run: Run) -> None:
    batches = [stored(number) for number in range(3)]
    async with Publisher(topic=topic("a")) as engine, run(zmq_endpoint=(endpoint(engine),)) as replica:
        await engine.subscribed()
        for batch in batches:
            engine.publish(batch)
        await replica.becomes("a", last_sequence=2, exact=True)
    async with Publisher(topic=topic("a"), buffered=2) as moved:
        for batch in batches:
            moved.publish(batch)
        async with run(zmq_endpoint=(endpoint(moved),)) as replica:
            await replica.becomes("a", last_sequence=2, exact=True, endpoint=moved.address)
            assert await replica.holds(0) == {"a"}


async def test_a_pod_that_is_not_heard_again_can_be_forgotten(run: Run, folder: Path) -> None:
    address = f"ipc://{folder}/bound"
    bound = (Endpoint(address),)
    async with run(zmq_endpoint=bound) as replica, Publisher(address, None, topic=topic("a"), binds=False) as engine:
        await fill(replica, engine, "a", 3)
    async with run(zmq_endpoint=bound) as replica:
        await replica.ready()
        assert (await replica.client.delete("/pods/a")).status == 200
        assert await replica.pods() == {}


async def test_a_snapshot_is_written_each_interval_when_the_index_changed(run: Run, settings: Settings) -> None:
    file = settings.models_dir.parent / "state" / "index.snapshot"
    async with (
        Publisher(topic=topic("a")) as engine,
        run(zmq_endpoint=(endpoint(engine),), snapshot_interval=0.05) as replica,
    ):
        await fill(replica, engine, "a", 3)
        await until(file.exists)
        copies = {file.stat().st_mtime_ns}
        engine.publish(stored(5))
        await until(lambda: file.stat().st_mtime_ns not in copies)
        assert re.search("kvcache_snapshots_written_total [1-9]", await replica.metrics())


async def test_a_torn_file_is_refused_in_one_line_and_the_service_starts_empty(
    run: Run, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    file = settings.models_dir.parent / "state" / "index.snapshot"
    async with Publisher(topic=topic("a")) as engine, run(zmq_endpoint=(endpoint(engine),)) as replica:
        await fill(replica, engine, "a", 3)
    file.write_bytes(file.read_bytes()[:-5])
    async with run(zmq_endpoint=()) as replica:
        await replica.ready()
        assert await replica.pods() == {}
    lines = [record.getMessage() for record in caplog.records if "not used" in record.getMessage()]
    assert lines == [f"the snapshot in {file.parent} is not used: its end is missing"]


async def test_a_folder_that_cannot_be_written_is_said_once_and_the_service_goes_on(
    run: Run, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    state = settings.models_dir.parent / "state"
    state.write_text("a file where a folder should be")
    async with (
        Publisher(topic=topic("a")) as engine,
        run(zmq_endpoint=(endpoint(engine),), snapshot_interval=0.02) as replica,
    ):
        await fill(replica, engine, "a", 3)

        async def has_failed() -> bool:
            return "kvcache_snapshot_failures_total 0" not in await replica.metrics()

        await eventually(has_failed)
        assert await replica.holds(0) == {"a"}
    assert len([record for record in caplog.records if record.getMessage().startswith("no snapshot in")]) == 1


async def test_a_second_service_in_the_same_folder_reads_and_does_not_write(
    run: Run, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        Publisher(topic=topic("a")) as engine,
        run(zmq_endpoint=(endpoint(engine),), snapshot_interval=0.02) as first,
    ):
        await fill(first, engine, "a", 3)
        await until((settings.models_dir.parent / "state" / "index.snapshot").exists)
        async with run(zmq_endpoint=(endpoint(engine),), snapshot_interval=0.02) as second:
            await second.becomes("a", last_sequence=2, exact=True)
    assert "another process writes there" in caplog.text
