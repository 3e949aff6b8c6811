"""Engines in containers beside this service, as `kvcache discover` writes them into a file from the host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from time import monotonic

from service.contract.containers import read_container_pods
from service.fleet.discovery.base import Found, Present, SourceFailed

_INTERVAL = 0.25
_SILENT_SECONDS = 10.0


class ContainerPodsFile:
    """The pods in that file. It fails if the file is not written any more, for `silent` seconds.

    `interval` is the time between two checks of the file, in seconds.
    """

    name = "containers"

    def __init__(self, path: Path, interval: float = _INTERVAL, silent: float = _SILENT_SECONDS) -> None:
        self._path = path
        self._interval = interval
        self._silent = silent
        self._beat: int | None = None
        self._changed_at = monotonic()

    async def watch(self) -> AsyncGenerator[Present, None]:
        told: Present | None = None
        while True:
            present = await self._read()
            if present != told:
                yield present
                told = present
            await asyncio.sleep(self._interval)

    async def _read(self) -> Present:
        """Raises SourceFailed."""
        try:
            pods = read_container_pods(await asyncio.to_thread(self._path.read_bytes))
            entries = pods.entries
        except FileNotFoundError:
            raise SourceFailed("no `kvcache discover` has written yet which containers there are") from None
        except (OSError, ValueError) as error:
            raise SourceFailed(str(error)) from None
        if pods.beat != self._beat:
            self._beat, self._changed_at = pods.beat, monotonic()
        elif monotonic() - self._changed_at > self._silent:
            raise SourceFailed(f"they are not followed any more; start it on the host: kvcache discover {pods.service}")
        if pods.problem is not None:
            raise SourceFailed(pods.problem)
        return Present(tuple(map(Found, entries)), pods.left_out)
