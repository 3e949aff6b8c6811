"""Replicas that meet at a Redis over TLS, which asks them for a certificate, a user and a password."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.service.certificates import Authority
from tests.service.replicas.shared.cluster import cluster
from tests.service.replicas.shared.replica import replica, share, status
from tests.service.replicas.shared.valkey_server import REDIS, Tls, valkey_server
from tests.waiting import until

pytestmark = pytest.mark.skipif(
    REDIS is None and not os.environ.get("KVCACHE_REQUIRE_RUNTIMES"),
    reason="redis-server is not installed: apt-get install redis-server",
)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls.make(tmp_path_factory.mktemp("tls"))


async def meet(url: str) -> None:
    """Lets two replicas share a value and a log."""
    async with replica("first", url) as first, replica("second", url) as second:
        await share(first, second)


@pytest.mark.parametrize("scheme", ["valkeys", "rediss"])
async def test_replicas_meet_over_tls_with_a_client_certificate_a_user_and_a_password(tls: Tls, scheme: str) -> None:
    with valkey_server(tls=tls) as server:
        await server.answers()
        server.client().acl_setuser("app", enabled=True, passwords=["+se%cret"], keys=["*"], categories=["+@all"])
        server.client().acl_setuser("default", enabled=False)
        await meet(f"{scheme}://app:se%25cret@127.0.0.1:{server.port}{tls.query}")


async def test_the_password_may_be_in_a_file(tls: Tls, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret\n")
    with valkey_server("--requirepass", "secret", tls=tls) as server:
        await server.starts()
        await meet(f"valkeys://localhost:{server.port}{tls.query}&password_file={tmp_path / 'password'}")


async def test_a_server_of_another_authority_is_refused(tls: Tls, tmp_path: Path) -> None:
    other = Authority(tmp_path, "other")
    with valkey_server(tls=tls) as server:
        await server.answers()
        async with replica("first", f"valkeys://127.0.0.1:{server.port}?ca={other.pair.cert}", waits=False) as first:
            await until(lambda: "certificate verify failed" in str(status(first).problem))


async def test_a_replica_without_a_certificate_is_turned_away_and_says_so(tls: Tls) -> None:
    with valkey_server(tls=tls) as server:
        await server.answers()
        url = f"valkeys://127.0.0.1:{server.port}?ca={tls.authority.pair.cert}"
        async with replica("first", url, waits=False) as first:
            await until(lambda: "ertificate" in str(status(first).problem))


async def test_sentinels_and_the_primary_that_they_name_are_asked_over_tls(tls: Tls, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("of sentinels")
    with valkey_server("--requirepass", "secret", tls=tls) as server:
        await server.starts()
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {server.port} 1\n"
            "sentinel auth-pass main secret\n"
            'requirepass "of sentinels"\n'
        )
        with valkey_server(config=config, tls=tls) as sentinel:
            await sentinel.starts()
            await meet(
                f"valkeys+sentinel://:secret@127.0.0.1:{sentinel.port}/main{tls.query}"
                f"&sentinel_password_file={tmp_path / 'password'}"
            )


async def test_a_cluster_is_used_over_tls(tls: Tls) -> None:
    async with cluster(3, tls=tls) as servers:
        await meet(f"valkeys+cluster://127.0.0.1:{servers[0].port}{tls.query}")
