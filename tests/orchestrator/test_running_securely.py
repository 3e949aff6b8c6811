"""A service with TLS and keys: what the commands say of it."""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from tests.command import Commands, free_port
from tests.orchestrator.invoked import Invoked, Invoker
from tests.orchestrator.launched import Up
from tests.service.certificates import Authority

_KEY = "sk-0123456789abcdef"


class Secured(Up):
    """Started detached, with a certificate, a key for reading, and metrics on a port of their own."""

    def __init__(self, kvcache: Commands, folder: Path) -> None:
        super().__init__(kvcache)
        self.authority = Authority(folder)
        pair = self.authority.issue("kvcache")
        self.metrics_port = free_port()
        self.started = self.run(
            "-d",
            *("--tls-cert", str(pair.cert), "--tls-key", str(pair.key)),
            *("--env", f"API_KEYS=reader:read:{_KEY}", "--env", f"METRICS_PORT={self.metrics_port}"),
        )

    def command(self, *arguments: str, **environment: str) -> Invoked:
        return Invoker(self.kvcache.folder).run(*arguments, "--runtime", "process", environment=environment)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    commands = Commands(tmp_path_factory.mktemp("secured"))
    running = Secured(commands, tmp_path_factory.mktemp("certificates"))
    yield running
    running.command("down", "--all")
    commands.close()


def test_up_waits_for_a_service_with_tls_and_shows_its_https_addresses(up: Secured) -> None:
    assert up.started.code == 0, up.started.output
    assert f"POST https://localhost:{up.port}/score" in up.started.output


def test_the_certificate_is_the_one_that_was_named(up: Secured) -> None:
    context = ssl.create_default_context(cafile=up.authority.pair.cert)
    connection = HTTPSConnection("localhost", up.port, timeout=10, context=context)
    connection.request("GET", "/health")
    assert connection.getresponse().read() == b"OK"
    connection.close()


def test_status_shows_all_with_a_key_and_says_how_without_one(up: Secured) -> None:
    (status,) = json.loads(up.command("status", "--json", KVCACHE_API_KEY=_KEY).output)
    assert (status["health"], status["report"]["ready"], status["report"]["pods"]) == ("healthy", True, 1)
    shown = " ".join(up.command("status").output.split())
    assert "ready; more is shown with an API key that may read, in KVCACHE_API_KEY" in shown


def test_score_needs_the_key_too(up: Secured) -> None:
    refused = up.command("score", "hello", "--name", up.name)
    assert refused.code == 1
    assert "Set KVCACHE_API_KEY" in refused.output
    assert up.command("score", "hello", "--name", up.name, KVCACHE_API_KEY=_KEY).code == 0


def test_a_url_of_https_is_verified(up: Secured) -> None:
    address = f"https://localhost:{up.port}"
    trusting = {"KVCACHE_API_KEY": _KEY, "SSL_CERT_FILE": str(up.authority.pair.cert)}
    assert up.command("score", "hello", "--url", address, **trusting).code == 0
    assert up.command("score", "hello", "--url", address, KVCACHE_API_KEY=_KEY).code == 1
