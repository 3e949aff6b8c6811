"""An API of a container runtime that a test can kill and start again, while containers go on.

Podman has no daemon: its API is a process of its own. A kill of Docker's daemon would end the containers of all other
tests, so that a relay in front of it is killed: what `kvcache` sees of a daemon with `live-restore`.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.command import wait_until
from tests.conftest import ROOT


class RestartingApi:
    """The API at a socket of its own, which `environment` names to `kvcache`."""

    def __init__(self, kind: str, socket: Path) -> None:
        self._socket = socket
        url = f"unix://{socket}"
        self.environment: Mapping[str, str] = {"CONTAINER_HOST" if kind == "podman" else "DOCKER_HOST": url}
        self._command = (
            ["podman", "system", "service", "--time", "0", url]
            if kind == "podman"
            else [sys.executable, "-m", __name__, str(socket), _docker_address()]
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, cwd=ROOT)
        wait_until(self._socket.exists)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket.unlink(missing_ok=True)


@contextmanager
def restarting_api(kind: str, folder: Path) -> Iterator[RestartingApi]:
    api = RestartingApi(kind, folder / "api.sock")
    try:
        api.start()
        yield api
    finally:
        api.kill()


def _docker_address() -> str:
    context = ("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    return os.environ.get("DOCKER_HOST") or subprocess.check_output(context, text=True).strip()


async def _relay(socket: str, target: str) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_behind = await asyncio.open_unix_connection(target)
        await asyncio.gather(pump(reader, to_behind), pump(behind, writer), return_exceptions=True)
        writer.close()
        to_behind.close()

    async with await asyncio.start_unix_server(relay, socket) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_relay(sys.argv[1], sys.argv[2].removeprefix("unix://")))
