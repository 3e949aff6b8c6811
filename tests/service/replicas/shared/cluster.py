"""A cluster of several servers of its own for a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

from tests.service.replicas.shared.valkey_server import Tls, ValkeyServer, valkey_server
from tests.waiting import reserved_port, until

_SLOTS = 16384


@asynccontextmanager
async def cluster(count: int, tls: Tls | None = None) -> AsyncIterator[list[ValkeyServer]]:
    """Servers that have an equal part of the slots each, in order."""
    with ExitStack() as stack:
        buses = [stack.enter_context(reserved_port()) for _ in range(count)]
        options = ("--cluster-enabled", "yes", "--cluster-port")
        servers = [stack.enter_context(valkey_server(*options, str(bus), tls=tls)) for bus in buses]
        for server in servers:
            await server.answers()
        for number, (server, bus) in enumerate(zip(servers, buses, strict=True)):
            first, end = number * _SLOTS // count, (number + 1) * _SLOTS // count
            server.client().cluster("addslotsrange", first, end - 1)
            # A server may be met once it says its number: otherwise two have the same.
            server.client().execute_command("CLUSTER SET-CONFIG-EPOCH", number + 1)
            servers[0].client().cluster("meet", "127.0.0.1", server.port, bus)
        await until(lambda: all(_is_whole(server, count) for server in servers))
        yield servers


def _is_whole(server: ValkeyServer, count: int) -> bool:
    info = server.client().cluster("info")
    return info["cluster_state"] == "ok" and int(info["cluster_known_nodes"]) == count
