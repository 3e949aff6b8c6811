"""PODS_FILE: pods in a JSON file that may change while the service runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from service.contract.pods import PodEntry, parse_pods
from service.fleet.registry import Registry

logger = logging.getLogger(__name__)
_INTERVAL = 1.0


class PodsFile:
    """Keeps the registry equal to the file: an array of entries in the form of `--pod`.

    A malformed file, or a pod name from another source, changes nothing; the reason is in `problem` and in the log.
    `interval` is the time between two checks of the file, in seconds.
    """

    def __init__(self, path: Path, registry: Registry, interval: float = _INTERVAL) -> None:
        self.problem: str | None = None
        self._path = path
        self._registry = registry
        self._interval = interval
        self._entries: dict[str, PodEntry] = {}
        self._content: bytes | None = None

    async def watch(self) -> None:
        """Applies the file at once and after each change, until it is cancelled."""
        while True:
            await self._look()
            await asyncio.sleep(self._interval)

    async def _look(self) -> None:
        try:
            content = await asyncio.to_thread(self._path.read_bytes)
            if content != self._content:
                self._apply(_read(content))
                self._content = content
            problem = None
        except (OSError, ValueError) as error:
            problem = f"PODS_FILE {self._path} is not used: {error}"
        if problem is not None and problem != self.problem:
            logger.warning("%s", problem)
        self.problem = problem

    def _apply(self, entries: Mapping[str, PodEntry]) -> None:
        """Adds, replaces and removes pods. Raises ValueError, without a change, if a name is taken."""
        for name in entries:
            if name not in self._entries and self._registry.get(name) is not None:
                raise ValueError(f"there is a pod {name} already")
        for entry in entries.values():
            if entry.key_file is not None:
                Path(entry.key_file).read_bytes()  # check it before any change
        for name, entry in self._entries.items():
            if entries.get(name) != entry:
                self._registry.remove(name)
        for name, entry in entries.items():
            if self._registry.get(name) is None:
                self._registry.add(entry)
        self._entries = dict(entries)


def _read(content: bytes) -> dict[str, PodEntry]:
    """The entries by name. Raises ValueError."""
    try:
        texts = msgspec.json.decode(content, type=list[str])
    except msgspec.DecodeError as error:
        raise ValueError(f"it must be a JSON array of strings: {error}") from None
    entries = [entry for text in texts for entry in parse_pods(text)]
    names = [entry.name for entry in entries]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two pods have the name {twice}")
    return dict(zip(names, entries, strict=True))
