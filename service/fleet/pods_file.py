"""PODS_FILE: pods in a YAML or JSON file that may change while the service runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from service.contract.pods import PodEntry, parse_pods, pod_entry
from service.fleet.registry import Registry

logger = logging.getLogger(__name__)
_INTERVAL = 1.0


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    """An entry that is a mapping."""

    url: str
    name: str | None = None
    events: str | None = None
    replay: str | None = None
    model: str | None = None
    key_file: str | None = None


_json = msgspec.json.Decoder(list[str | _Written])


class PodsFile:
    """Keeps the registry equal to the file: a list of entries, texts in the form of `--pod` or mappings of its names.

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
    entries = [entry for written in _decode(content) for entry in _entries(written)]
    names = [entry.name for entry in entries]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two pods have the name {twice}")
    return dict(zip(names, entries, strict=True))


def _decode(content: bytes) -> list[str | _Written]:
    with suppress(msgspec.DecodeError, UnicodeDecodeError):  # YAML forbids the tabs that JSON allows
        return _json.decode(content)
    try:
        return msgspec.yaml.decode(content, type=list[str | _Written])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"it must be a list of pods, in YAML or JSON: {error}") from None


def _entries(written: str | _Written) -> Sequence[PodEntry]:
    if isinstance(written, str):
        return parse_pods(written)
    options = {name: value for name, value in msgspec.structs.asdict(written).items() if value is not None}
    return (pod_entry(options.pop("url"), options),)
