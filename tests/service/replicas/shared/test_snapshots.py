"""Replicas that keep one snapshot for all of them in a real Valkey."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from service.contract.shared_state import parse_shared_state
from service.replicas.snapshot_format import End, frame
from service.replicas.snapshot_store import SnapshotStore
from service.simulation.publisher import Publisher
from tests.service.replicas.conftest import Run
from tests.service.replicas.replica import Replica, endpoint, eventually, stored, topic
from tests.service.replicas.shared.valkey_server import ValkeyServer, valkey_server
from tests.waiting import until

KEY = "{kvcache}:1:snapshot:1"


def sharing(engine: Publisher, valkey: ValkeyServer) -> dict[str, Any]:
    """Settings of a replica whose only memory is the Valkey."""
    return {
        "zmq_endpoint": (endpoint(engine),),
        "state_dir": None,
        "shared_state": parse_shared_state(valkey.url),
        "bootstrap_from": "shared",
        "snapshot_interval": 0.05,
    }


@pytest.fixture
async def engine() -> AsyncIterator[Publisher]:
    """It replays its last batch only, so that the others can come from a snapshot only."""
    async with Publisher(topic=topic("a"), buffered=1) as publisher:
        yield publisher


async def fill(replica: Replica, engine: Publisher, blocks: int) -> None:
    await engine.subscribed()
    for number in range(blocks):
        engine.publish(stored(number))
    await replica.becomes("a", last_sequence=blocks - 1, exact=True)


async def knows(replica: Replica, blocks: int) -> bool:
    return all([await replica.holds(number) == {"a"} for number in range(blocks)])


async def test_a_replica_continues_from_what_others_wrote_that_are_gone(
    run: Run, engine: Publisher, valkey: ValkeyServer
) -> None:
    async with run(**sharing(engine, valkey)) as first:
        await first.ready()
        await fill(first, engine, 5)
    assert valkey.client().exists(KEY) == 1
    async with run(**sharing(engine, valkey)) as second:
        await second.ready()
        await second.becomes("a", last_sequence=4, exact=True)
        assert await knows(second, 5)


async def test_one_of_two_replicas_writes_and_the_other_one_when_it_is_gone(
    run: Run, engine: Publisher, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = valkey.client()
    async with run(**sharing(engine, valkey)) as second:
        async with run(**sharing(engine, valkey)) as first:
            await fill(first, engine, 3)
            await second.becomes("a", last_sequence=2)
            await until(lambda: client.exists(KEY) == 1)
            holder = client.get(f"{KEY}:lease")
        await until(lambda: client.get(f"{KEY}:lease") is not None)
        written = client.get(KEY)
        engine.publish(stored(3))
        await until(lambda: client.get(KEY) != written)
        lists = [key for key in valkey.all_keys() if key.startswith(f"{KEY}:") and not key.endswith("lease")]
        assert len(lists) <= 2, "a former snapshot is dropped"
        assert holder is not None
    assert client.get(f"{KEY}:lease") is None
    assert "no snapshot in" not in caplog.text


async def test_the_first_replica_finds_no_snapshot_and_is_ready_at_once(
    run: Run, engine: Publisher, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with run(**sharing(engine, valkey)) as replica:
        await replica.ready()
    assert "not used" not in caplog.text


async def test_a_store_that_lost_its_memory_gets_the_snapshot_again_though_nothing_changed(
    run: Run, engine: Publisher, valkey: ValkeyServer
) -> None:
    async with run(**sharing(engine, valkey)) as replica:
        await fill(replica, engine, 3)
        await until(lambda: valkey.client().exists(KEY) == 1)
        valkey.client().flushall()
        await until(lambda: valkey.client().exists(KEY) == 1)


async def test_a_snapshot_leaves_room_in_the_store_and_it_is_said(
    run: Run, engine: Publisher, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = valkey.client()
    client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + (5 << 20))
    async with run(**sharing(engine, valkey)) as replica:
        await fill(replica, engine, 3)

        async def has_failed() -> bool:
            return "kvcache_snapshot_failures_total 0" not in await replica.metrics()

        await eventually(has_failed)
        assert (await replica.get("/ready"))[1]["shared_state"] == "up"
        assert client.exists(KEY) == 0
    said = [one.getMessage() for one in caplog.records if one.getMessage().startswith("no snapshot in valkey://")]
    assert len(said) == 1
    assert "80% of its maxmemory" in said[0]


async def test_a_lease_whose_answer_was_lost_is_held_and_released(valkey: ValkeyServer) -> None:
    """A stop cancels the command that takes the lease, and then writes the last snapshot."""
    client, address = valkey.client(), parse_shared_state(valkey.url)
    assert address is not None
    store = SnapshotStore(address, "kvcache", "me", 30.0)
    client.set(f"{KEY}:lease", "me")
    assert await store.acquire()
    await store.release()
    assert client.get(f"{KEY}:lease") is None


async def test_a_store_that_does_not_answer_is_given_up_in_time(
    run: Run, engine: Publisher, valkey: ValkeyServer, caplog: pytest.LogCaptureFixture
) -> None:
    valkey.kill()
    async with run(**sharing(engine, valkey), ready_replay_timeout=0.2) as replica:
        await replica.ready()
        await fill(replica, engine, 1)
    assert "is not used" in caplog.text


async def test_a_snapshot_that_is_replaced_while_it_is_read_is_read_anew(
    run: Run, engine: Publisher, valkey: ValkeyServer
) -> None:
    async with run(**sharing(engine, valkey)) as first:
        await fill(first, engine, 3)
    client = valkey.client()
    pointer = client.get(KEY)
    client.set(KEY, f"{KEY}:gone 1")
    async with run(**sharing(engine, valkey), ready_replay_timeout=60.0) as second:

        async def is_loading() -> bool:
            return (await second.get("/ready"))[0] == 503

        await eventually(is_loading)
        client.set(KEY, pointer or b"")
        await second.ready()
        assert await knows(second, 3)


async def test_a_cluster_holds_it_too() -> None:
    with valkey_server("--cluster-enabled", "yes") as server:
        await server.answers()
        server.client().cluster("addslotsrange", 0, 16383)
        await until(lambda: server.client().cluster("info")["cluster_state"] == "ok")
        address = parse_shared_state(f"valkey+cluster://127.0.0.1:{server.port}")
        assert address is not None
        first, second = [SnapshotStore(address, "fleet", name, 30.0) for name in ("first", "second")]
        assert [await first.acquire(), await first.acquire()] == [1, 1]
        assert await second.acquire() == 0
        writing = await first.begin()
        await writing.finish(End(0))
        pieces = [piece async for piece in second.pieces()]
        assert b"".join(pieces).endswith(frame(End(0)))
        await first.release()
        assert await second.acquire() == 1
        await second.release()
