"""The entry of a pod of which a source knows addresses and ports."""

from __future__ import annotations

from service.contract.discovery import SourceEntry
from service.contract.pods import PodEntry, pod_entry


def entry_at(
    source: SourceEntry,
    address: str,
    port: int,
    *,
    scheme: str | None = None,
    model: str | None = None,
    events: int | None = None,
    replay: int | None = None,
) -> PodEntry:
    """The entry of the pod at an IP address. Its scheme, model and key file are the source's, if not its own."""
    host = f"[{address}]" if ":" in address else address
    options = {
        "model": model or source.option("model"),
        "key_file": source.option("key_file"),
        "events": f"tcp://{host}:{events}" if events is not None else None,
        "replay": f"tcp://{host}:{replay}" if replay is not None else None,
    }
    url = f"{scheme or source.option('scheme') or 'http'}://{host}:{port}"
    return pod_entry(url, {name: value for name, value in options.items() if value is not None})
