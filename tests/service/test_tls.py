from __future__ import annotations

import asyncio
import logging
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import ClientSession, TCPConnector

from service.contract.api_keys import parse_api_keys
from service.contract.settings import Settings
from service.healthcheck import healthy
from service.server import ListenError, listening
from tests.command import free_port
from tests.service.certificates import Authority, Pair
from tests.waiting import PATIENCE, until


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


class Secure:
    """A service with TLS, and clients of it."""

    def __init__(self, port: int, stack: AsyncExitStack) -> None:
        self.port = port
        self._stack = stack

    async def client(self, authority: Authority, own: Pair | None = None) -> ClientSession:
        """A client that trusts an authority; it makes a connection for each request."""
        context = ssl.create_default_context(cafile=authority.pair.cert)
        if own is not None:
            context.load_cert_chain(own.cert, own.key)
        connector = TCPConnector(ssl=context, force_close=True)
        session = ClientSession(f"https://localhost:{self.port}", connector=connector)
        return await self._stack.enter_async_context(session)


@pytest.fixture
async def secure(settings: Settings) -> AsyncIterator[Any]:
    async with AsyncExitStack() as stack:

        async def start(**changes: Any) -> Secure:
            return Secure(await stack.enter_async_context(listening(replace(settings, **changes))), stack)

        yield start


async def name_of_certificate(port: int) -> str:
    """The common name in the certificate that the service presents."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    presented = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    pem = ssl.DER_cert_to_PEM_cert(presented)
    process = await asyncio.create_subprocess_exec(
        *("openssl", "x509", "-noout", "-subject"), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate(pem.encode())
    return told.decode().strip().replace(" ", "").partition("CN=")[2]


async def presents(port: int, name: str) -> None:
    """Waits until the service presents the certificate with this common name."""
    async with asyncio.timeout(PATIENCE):
        for _ in range(1000):
            if await name_of_certificate(port) == name:
                return
            await asyncio.sleep(0.05)


async def test_requests_are_answered_over_tls_and_plain_ones_are_not(secure: Any, authority: Authority) -> None:
    pair = authority.issue("first")
    service = await secure(tls_cert=pair.cert, tls_key=pair.key)
    client = await service.client(authority)
    async with client.post("/score", json={"prompt": [1, 2]}) as response:
        assert response.status == 200
    async with ClientSession() as plain:
        with pytest.raises((aiohttp.ClientError, ConnectionError)):
            await plain.get(f"http://127.0.0.1:{service.port}/health")


async def test_a_large_body_passes_through_tls(secure: Any, authority: Authority) -> None:
    pair = authority.issue("first")
    service = await secure(tls_cert=pair.cert, tls_key=pair.key)
    client = await service.client(authority)
    async with client.post("/tokenize", json={"prompt": "a " * 200_000}) as response:
        assert response.status == 200
        assert (await response.json())["count"] > 100_000


async def test_the_health_check_of_the_container_speaks_tls(secure: Any, authority: Authority) -> None:
    pair = authority.issue("first")
    service = await secure(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.pair.cert)
    assert await asyncio.to_thread(healthy, service.port, 10.0, tls=True)
    assert not await asyncio.to_thread(healthy, service.port, 10.0)


async def test_a_changed_certificate_is_presented_to_new_connections_while_old_ones_go_on(
    secure: Any, authority: Authority
) -> None:
    pair = authority.issue("first")
    service = await secure(tls_cert=pair.cert, tls_key=pair.key)
    trusting = ssl.create_default_context(cafile=authority.pair.cert)
    async with ClientSession(connector=TCPConnector(ssl=trusting, limit=1)) as old:
        url = f"https://localhost:{service.port}/health"
        assert (await old.get(url)).status == 200
        second = authority.issue("second")
        shutil.copy(second.key, pair.key)
        shutil.copy(second.cert, pair.cert)
        await presents(service.port, "second")
        assert (await old.get(url)).status == 200


@pytest.mark.parametrize("change", ["broken", "of another key", "missing"])
async def test_an_unusable_changed_certificate_leaves_the_former_one_and_is_told_once(
    secure: Any, authority: Authority, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    pair, second = authority.issue("first"), authority.issue("second")
    service = await secure(tls_cert=pair.cert, tls_key=pair.key)
    with caplog.at_level(logging.INFO):
        if change == "broken":
            pair.cert.write_text("not a certificate")
        elif change == "missing":
            pair.cert.unlink()
        else:
            shutil.copy(second.cert, pair.cert)
        await until(lambda: "The former certificate stays" in caplog.text)
        assert await name_of_certificate(service.port) == "first"
        shutil.copy(second.key, pair.key)
        shutil.copy(second.cert, pair.cert)
        await presents(service.port, "second")
    assert caplog.text.count("The former certificate stays") == 1


async def test_without_a_client_certificate_only_health_and_readiness_are_answered(
    secure: Any, authority: Authority
) -> None:
    pair, own = authority.issue("first"), authority.issue("router")
    service = await secure(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.pair.cert)
    stranger, known = await service.client(authority), await service.client(authority, own)
    for path in ("/health", "/ready"):
        assert (await stranger.get(path)).status in (200, 503)
    for method, path in (("GET", "/pods"), ("GET", "/metrics"), ("POST", "/score"), ("DELETE", "/pods/a:1")):
        async with stranger.request(method, path, json={"prompt": [1]} if method == "POST" else None) as refused:
            assert refused.status == 401
            assert (await refused.json())["error"]["code"] == "client_certificate_required"
    async with known.post("/score", json={"prompt": [1]}) as response:
        assert response.status == 200


async def test_a_client_certificate_of_another_authority_ends_the_handshake(
    secure: Any, authority: Authority, tmp_path: Path
) -> None:
    pair = authority.issue("first")
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other").issue("stranger")
    service = await secure(tls_cert=pair.cert, tls_key=pair.key, tls_client_ca=authority.pair.cert)
    client = await service.client(authority, other)
    with pytest.raises((aiohttp.ClientError, ConnectionError)):
        await client.get("/health")


async def test_unusable_files_end_the_start_with_the_variable(settings: Settings, authority: Authority) -> None:
    pair, other = authority.issue("first"), authority.issue("second")
    attempts: tuple[tuple[dict[str, Any], str], ...] = (
        ({"tls_cert": pair.cert, "tls_key": other.key}, "TLS_KEY"),
        ({"tls_cert": pair.cert.with_name("missing")}, "missing"),
        ({"tls_key": pair.key}, "TLS_CERT"),
        ({"tls_cert": pair.cert, "tls_key": pair.key, "tls_client_ca": pair.key}, "TLS_CLIENT_CA"),
    )
    for changes, named in attempts:
        with pytest.raises(ListenError, match=named):
            async with listening(replace(settings, **changes)):
                pass


async def test_metrics_have_a_port_of_their_own_without_key_and_tls(settings: Settings, authority: Authority) -> None:
    port = free_port()
    pair = authority.issue("first")
    keys = parse_api_keys("a:read:sk-0123456789abcdef")
    wanted = replace(settings, tls_cert=pair.cert, tls_key=pair.key, api_keys=keys, metrics_port=port)
    async with listening(wanted), ClientSession(f"http://127.0.0.1:{port}") as scraper:
        async with scraper.get("/metrics") as response:
            assert response.status == 200
            assert "kvcache_" in await response.text()
        assert (await scraper.get("/health")).status == 200
        assert (await scraper.get("/ready")).status in (200, 503)
        assert (await scraper.get("/pods")).status == 404
        assert (await scraper.post("/score", json={"prompt": [1]})).status == 404
