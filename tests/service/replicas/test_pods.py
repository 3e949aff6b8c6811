"""Changes of pods at one replica, as the others make them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TypeAlias

import pytest

from service.contract.endpoints import Endpoint
from service.contract.pods import pod_entry
from service.fleet.registry import Registry
from service.replicas.pods import SharedPods
from service.replicas.publishers import Instance, Publishers
from service.replicas.shared.state import SharedState
from tests.service.replicas.shared.joined import Between

ENTRY = pod_entry("http://10.0.0.7:8000", {"name": "a", "events": "tcp://10.0.0.7:5557"})


@dataclass
class Replica:
    """The pods of a replica, and the endpoints that it follows."""

    fleet: Registry
    pods: SharedPods
    publishers: Publishers
    followed: list[Endpoint] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)


Join: TypeAlias = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def join() -> AsyncIterator[Join]:
    """Starts a replica, with pods of its own settings if any."""
    between = Between()
    async with AsyncExitStack() as stack:

        async def start(*configured: str) -> Replica:
            shared, fleet = SharedState(between.carrier()), Registry()
            for name in configured:
                fleet.add(pod_entry("http://10.0.0.9:8000", {"name": name}))
            followed: list[Endpoint] = []
            forgotten: list[str] = []
            pods = SharedPods(shared, fleet, forgotten.append)
            publishers = Publishers(shared, followed.append, followed.remove, forgotten.append)
            await shared.start()
            stack.push_async_callback(shared.close)
            return Replica(fleet, pods, publishers, followed, forgotten)

        yield start


async def test_a_pod_that_is_added_at_one_replica_is_there_at_all_also_at_one_that_starts_later(join: Join) -> None:
    first, second = await join(), await join()
    first.pods.added(first.fleet.add(ENTRY))
    third = await join()
    for replica in (second, third):
        assert [pod.entry for pod in replica.fleet] == [ENTRY]


async def test_a_pod_that_drains_at_one_replica_drains_at_all(join: Join) -> None:
    first, second = await join("configured"), await join("configured")
    pod = first.fleet.get("configured")
    assert pod is not None
    pod.draining, pod.weight = True, 2.5
    first.pods.changed(pod)
    third, without = await join("configured"), await join()
    for replica in (second, third):
        (other,) = replica.fleet
        assert (other.draining, other.weight) == (True, 2.5)
    assert len(without.fleet) == 0, "a pod of one replica's settings is not added to others"


async def test_a_pod_of_a_file_that_is_read_later_drains_too(join: Join) -> None:
    first, second = await join("configured"), await join()
    pod = first.fleet.get("configured")
    assert pod is not None
    pod.draining = True
    first.pods.changed(pod)
    assert second.fleet.add(pod.entry).draining


async def test_a_pod_that_is_removed_at_one_replica_is_removed_and_forgotten_at_all(join: Join) -> None:
    first, second = await join("configured"), await join("configured")
    first.fleet.remove("configured")
    first.pods.removed("configured")
    third = await join("configured")
    for replica in (second, third):
        assert len(replica.fleet) == 0
        assert replica.forgotten == ["configured"]


async def test_a_pod_may_come_back_under_its_name(join: Join) -> None:
    first, second = await join(), await join()
    first.pods.added(first.fleet.add(ENTRY))
    second.fleet.remove("a")
    second.pods.removed("a")
    assert len(first.fleet) == 0
    second.pods.added(second.fleet.add(ENTRY))
    assert [pod.name for pod in first.fleet] == ["a"]


async def test_a_registered_publisher_is_followed_by_all_until_it_is_unregistered_anywhere(join: Join) -> None:
    endpoint = Endpoint("tcp://10.0.0.7:5557", pod="a", model="m", replay="tcp://10.0.0.7:5558")
    first, second = await join(), await join()
    first.publishers.add("a", 0, "default", endpoint)
    third = await join()
    assert first.followed == second.followed == third.followed == [endpoint]
    assert third.publishers.get("a") == Instance("default", {0: endpoint})
    third.publishers.remove("a", 0)
    assert first.followed == second.followed == third.followed == []
    assert first.forgotten == second.forgotten == third.forgotten == ["a"]
    assert first.publishers.get("a") is None
