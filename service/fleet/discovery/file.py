"""Pods in a YAML or JSON file that may change while the service runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from service.contract.pods import PodEntry, check_distinct, parse_pods, pod_entry
from service.fleet.discovery.base import Found, Present, SourceFailed

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
    """The pods in a file: a list of entries, texts in the form of `--pod` or mappings of its names.

    A malformed file fails as a whole. `interval` is the time between two checks of the file, in seconds.
    """

    def __init__(self, path: Path, interval: float = _INTERVAL) -> None:
        self._path = path
        self._interval = interval

    @property
    def name(self) -> str:
        return f"file:{self._path}"

    async def watch(self) -> AsyncGenerator[Present, None]:
        last: bytes | None = None
        while True:
            try:
                content = await asyncio.to_thread(self._path.read_bytes)
                if content != last:
                    present = Present(_read(content))
            except (OSError, ValueError) as error:
                raise SourceFailed(str(error)) from None
            if content != last:
                yield present
                last = content
            await asyncio.sleep(self._interval)


def _read(content: bytes) -> tuple[Found, ...]:
    """Raises ValueError, and OSError for a key file that cannot be read."""
    entries = [entry for written in _decode(content) for entry in _entries(written)]
    check_distinct(entries)
    for entry in entries:
        if entry.key_file is not None:
            Path(entry.key_file).read_bytes()  # the file is used as a whole, or not at all
    return tuple(map(Found, entries))


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
