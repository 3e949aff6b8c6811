from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TypeAlias

import pytest
from redis.exceptions import ResponseError

from service.replicas.shared.state import SharedState
from tests.service.replicas.shared.replica import is_up, replica, status
from tests.service.replicas.shared.valkey_server import ValkeyServer, valkey_server
from tests.waiting import until

Join: TypeAlias = Callable[..., Awaitable[SharedState]]


@pytest.fixture
async def join(valkey: ValkeyServer) -> AsyncIterator[Join]:
    """Starts a replica that uses the Valkey of the test, and waits until it is connected if it can be."""
    async with AsyncExitStack() as stack:

        async def start(name: str, prefix: str = "fleet", url: str = valkey.url, *, waits: bool = True) -> SharedState:
            return await stack.enter_async_context(replica(name, url, prefix, waits=waits))

        yield start


async def test_replicas_find_each_other_and_miss_one_that_leaves(join: Join) -> None:
    first, second = await join("first"), await join("second")
    await until(lambda: list(first.members) == ["second"] and list(second.members) == ["first"])
    await second.close()
    await until(lambda: not first.members)


async def test_a_value_is_known_to_a_replica_that_starts_when_its_writer_is_gone(join: Join) -> None:
    first = await join("first")
    first.put("pods", "a", b"1")
    first.put("pods", "b", b"2")
    first.remove("pods", "b")
    await first.close()
    second = await join("second")
    await until(lambda: second.values("pods") == {"a": b"1"})


async def test_messages_come_in_order(join: Join) -> None:
    first, second = await join("first"), await join("second")
    told: list[bytes] = []
    second.subscribe("load", lambda _, message: told.append(message))
    sent = [b"%d" % number for number in range(5000)]
    for message in sent:
        first.publish("load", message)
    await until(lambda: len(told) == len(sent))
    assert told == sent


async def test_a_log_is_read_from_its_beginning_and_on(join: Join) -> None:
    first, second = await join("first"), await join("second")
    first.append("a", b"1")
    read: list[bytes] = []
    second.follow("a", read.append)
    await until(lambda: read == [b"1"])
    first.append("a", b"2")
    await until(lambda: read == [b"1", b"2"])


async def test_a_log_of_large_entries_takes_no_more_memory_than_it_may(join: Join, valkey: ValkeyServer) -> None:
    first = await join("first")
    for number in range(48):
        first.append("a", b"%2d" % number + bytes(1 << 20))
    client = valkey.client()
    await until(lambda: status(first).sent >= 48 and client.xlen("{fleet}:1:log:a") > 0)
    await until(lambda: client.xrevrange("{fleet}:1:log:a", count=1)[0][1][b"f"][:2] == b"47")
    assert 8 << 20 < client.memory_usage("{fleet}:1:log:a", samples=0) < 18 << 20


async def test_two_fleets_on_one_valkey_do_not_meet(join: Join, valkey: ValkeyServer) -> None:
    first, second, other = await join("first", "blue"), await join("second", "blue"), await join("other", "green")
    first.put("pods", "a", b"1")
    other.put("pods", "a", b"2")
    await until(lambda: second.values("pods") == {"a": b"1"})
    assert set(second.members) == {"first"}
    assert not other.members
    assert {key.split(":")[0] for key in valkey.all_keys()} == {"{blue}", "{green}"}


async def test_every_key_has_the_prefix_and_the_version_and_that_of_a_replica_expires(
    join: Join, valkey: ValkeyServer
) -> None:
    first = await join("first")
    client = valkey.client()
    await until(lambda: client.pttl("{fleet}:1:replicas:first") > 0)
    assert all(key.startswith(("{fleet}:1:", "{fleet}:format")) for key in valkey.all_keys())
    assert is_up(first)


async def test_a_replica_of_another_version_is_refused_and_says_so(join: Join, valkey: ValkeyServer) -> None:
    valkey.client().set("{fleet}:format", "2")
    state = await join("first", waits=False)
    await until(lambda: "version 2 of" in str(status(state).problem))
    assert valkey.all_keys() == ["{fleet}:format"]
    valkey.client().delete("{fleet}:format")
    await until(lambda: is_up(state))


async def test_what_changes_while_valkey_is_away_is_told_when_it_is_back_without_its_memory(
    join: Join, valkey: ValkeyServer
) -> None:
    first, second = await join("first"), await join("second")
    first.put("pods", "a", b"1")
    await until(lambda: second.values("pods") == {"a": b"1"})
    valkey.kill()
    await until(lambda: not is_up(first) and not is_up(second))
    first.put("pods", "b", b"2")
    second.remove("pods", "a")
    valkey.launch()
    await until(lambda: is_up(first) and is_up(second))
    await until(lambda: first.values("pods") == second.values("pods") == {"b": b"2"})
    third = await join("third")
    await until(lambda: third.values("pods") == {"b": b"2"})
    await until(lambda: len(third.members) == 2)


async def test_a_valkey_that_does_not_answer_is_down_and_messages_are_dropped_until_it_does(
    join: Join, valkey: ValkeyServer
) -> None:
    first, second = await join("first"), await join("second")
    told: list[bytes] = []
    second.subscribe("load", lambda _, message: told.append(message))
    valkey.stall()
    try:
        await until(lambda: not is_up(first) and not is_up(second))
        assert "no answer" in str(status(first).problem)
        first.publish("load", b"lost")
        assert status(first).dropped > 0
    finally:
        valkey.go_on()
    await until(lambda: is_up(first) and is_up(second))
    first.publish("load", b"told")
    await until(lambda: told[-1:] == [b"told"])
    assert b"lost" not in told


async def test_a_full_valkey_is_down_with_the_remedy(join: Join, valkey: ValkeyServer) -> None:
    first = await join("first")
    client = valkey.client()
    client.config_set("maxmemory", 1)
    await until(lambda: "raise its maxmemory" in str(status(first).problem))
    client.config_set("maxmemory", 0)
    await until(lambda: is_up(first))


async def test_a_primary_that_becomes_a_replica_is_down(join: Join, valkey: ValkeyServer) -> None:
    first = await join("first")
    client = valkey.client()
    client.replicaof("127.0.0.1", 1)
    await until(lambda: not is_up(first))
    client.replicaof("NO", "ONE")
    await until(lambda: is_up(first))


async def test_a_wrong_password_is_said_and_the_right_one_works(join: Join, valkey: ValkeyServer) -> None:
    valkey.client().config_set("requirepass", "secret")
    wrong = await join("first", url=f"valkey://:wrong@127.0.0.1:{valkey.port}", waits=False)
    await until(lambda: "password" in str(status(wrong).problem))
    await join("second", url=f"redis://:secret@127.0.0.1:{valkey.port}")


async def test_nobody_there_is_said_and_delays_nothing(join: Join, valkey: ValkeyServer) -> None:
    valkey.kill()
    state = await join("first", waits=False)
    state.put("pods", "a", b"1")
    assert state.values("pods") == {"a": b"1"}
    await until(lambda: "connect" in str(status(state).problem).lower())


def begins_failover(sentinel: ValkeyServer) -> bool:
    """Whether a Sentinel takes the order: it refuses before it has seen that the replica is fit."""
    try:
        return bool(sentinel.client().sentinel_failover("main"))
    except ResponseError:
        return False


async def test_the_primary_that_sentinels_name_is_used_and_their_new_one_after_a_failover(
    join: Join, valkey: ValkeyServer, tmp_path: Path
) -> None:
    with valkey_server("--replicaof", "127.0.0.1", str(valkey.port)) as other:
        await other.answers()
        await until(lambda: other.client().info("replication")["master_link_status"] == "up")
        config = tmp_path / "sentinel.conf"
        config.write_text(f"sentinel monitor main 127.0.0.1 {valkey.port} 1\nsentinel resolve-hostnames yes\n")
        with valkey_server(config=config) as sentinel:
            await sentinel.answers()
            await until(lambda: len(sentinel.client().sentinel_slaves("main")) == 1)
            url = f"valkey+sentinel://127.0.0.1:{sentinel.port}/main"
            first, second = await join("first", url=url), await join("second", url=url)
            first.put("pods", "a", b"1")
            await until(lambda: second.values("pods") == {"a": b"1"})
            await until(lambda: begins_failover(sentinel))
            await until(lambda: other.client().info("replication")["role"] == "master")
            first.put("pods", "b", b"2")
            third = await join("third", url=url)
            await until(lambda: third.values("pods") == {"a": b"1", "b": b"2"})
            await until(lambda: other.client().exists("{fleet}:1:replicas:first") == 1)
            for one in (first, second, third):
                await one.close()
