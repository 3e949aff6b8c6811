"""The sources of pods that settings name."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from service.contract.containers import FILE
from service.contract.discovery import CONTAINERS, DNS, KUBERNETES, SourceEntry
from service.fleet.discovery.base import Source
from service.fleet.discovery.containers import ContainerPodsFile
from service.fleet.discovery.file import PodsFile


def sources(pods_file: Path | None, discovery: Iterable[SourceEntry]) -> list[Source]:
    """The file of PODS_FILE, and the sources of DISCOVERY; each once."""
    found: list[Source] = [PodsFile(pods_file)] if pods_file is not None else []
    for entry in discovery:
        source = _source(entry)
        if source.name not in [one.name for one in found]:
            found.append(source)
    return found


def _source(entry: SourceEntry) -> Source:
    if entry.kind == DNS:
        from service.fleet.discovery.dns import DnsPods  # noqa: PLC0415 - most services need no DNS library

        return DnsPods(entry)
    if entry.kind == CONTAINERS:
        return ContainerPodsFile(Path(entry.place or FILE))
    if entry.kind == KUBERNETES:
        from service.fleet.discovery.kubernetes import kubernetes_pods  # noqa: PLC0415 - needed in Kubernetes only

        return kubernetes_pods(entry)
    return PodsFile(Path(entry.place).expanduser())
