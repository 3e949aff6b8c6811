"""Opens a client of Valkey: of one server, of the primary that Sentinels name, or of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from redis.asyncio import Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import SentinelConnectionPool
from redis.backoff import NoBackoff

from service.contract.shared_state import ValkeyAddress

_CONNECT_SECONDS = 2.0


def connect(address: ValkeyAddress) -> Redis | RedisCluster:
    """A client that connects with its first command, and does nothing a second time. Raises OSError."""
    options: dict[str, Any] = {
        "username": address.username,
        "password": _password(address.password_file) or address.password,
        "socket_connect_timeout": _CONNECT_SECONDS,
        "socket_timeout": None,  # the caller has a timeout for each command
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    if address.tls:
        options |= {
            "ssl": True,
            "ssl_ca_certs": address.ca,
            "ssl_certfile": address.cert,
            "ssl_keyfile": address.key,
        }
    if address.kind == "cluster":
        nodes = [ClusterNode(host, port) for host, port in address.hosts]
        return RedisCluster(startup_nodes=nodes, **options)
    if address.kind == "sentinel":
        of_sentinels = {**options, "username": None, "password": _password(address.sentinel_password_file)}
        sentinels = Sentinel(list(address.hosts), sentinel_kwargs=of_sentinels, **options)
        return sentinels.master_for(address.service or "", db=address.database)
    host, port = address.hosts[0]
    return Redis(host=host, port=port, db=address.database, **options)


async def disconnect(client: Redis | RedisCluster) -> None:
    """Closes all connections of a client, also those that it leaves open itself."""
    if isinstance(client, RedisCluster):
        await client.nodes_manager.aclose("startup_nodes")
    elif isinstance(client.connection_pool, SentinelConnectionPool):
        for sentinel in client.connection_pool.sentinel_manager.sentinels:
            await sentinel.aclose()
    await client.aclose()


def _password(file: str | None) -> str | None:
    return Path(file).read_text(encoding="utf-8").strip() if file else None
