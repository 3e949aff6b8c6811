from __future__ import annotations

from tests.service.replicas.shared.cluster import cluster
from tests.service.replicas.shared.replica import is_up, replica, share
from tests.waiting import until


async def test_a_cluster_of_three_carries_all_of_it_with_the_keys_of_a_fleet_on_one_node() -> None:
    async with cluster(3) as servers:
        url = f"valkey+cluster://127.0.0.1:{servers[0].port}"
        prefixes = ["a", "b", "c", "d", "e", "f"]
        for prefix in prefixes:
            async with replica("first", url, prefix) as first, replica("second", url, prefix) as second:
                await share(first, second)
                async with replica("third", url, prefix) as third:
                    await until(lambda third=third: third.values("pods") == {"a": b"1"})  # type: ignore[misc]
        keys = [[key.split("}")[0].lstrip("{") for key in server.all_keys()] for server in servers]
        holders = {prefix: [number for number, found in enumerate(keys) if prefix in found] for prefix in prefixes}
        assert all(len(found) == 1 for found in holders.values())
        assert len({found[0] for found in holders.values()}) > 1


async def test_a_replica_starts_where_a_node_that_the_address_names_first_is_gone() -> None:
    async with cluster(3) as servers:
        # Otherwise the whole cluster stops while a part of the slots has no node.
        for server in servers:
            server.client().config_set("cluster-require-full-coverage", "no")
        url = "valkey+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in (servers[1], servers[2]))
        async with replica("first", url) as first:
            first.put("pods", "a", b"1")
            await until(lambda: any(server.all_keys() for server in servers))
            assert not servers[1].all_keys()
            servers[1].kill()
            async with replica("second", url) as second:
                await until(lambda: second.values("pods") == {"a": b"1"})
            assert is_up(first)
