"""Where the engines and other servers of a launch are, for rules about networks."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from orchestrator.cautions import addresses_listened_to, pods_asked
from orchestrator.launch import Launch
from service.contract.discovery import DNS, name_and_port
from service.contract.endpoints import host_port
from service.contract.shared_state import parse_shared_state

_EVENTS = (5557, 5558)
_HTTP = 8000
"""The ports of vLLM, for engines whose own are asked for and not named."""
_STORE = 6379
_URLS = ("BOOTSTRAP_FROM", "RENDER_URL", "OTEL_EXPORTER_OTLP_ENDPOINT")


def ports_of_engines(launch: Launch) -> list[int]:
    """Ports of events, replay and HTTP, in order."""
    found = {port for _, port in _named(launch)}
    if launch.pod_entries or launch.sources:
        found |= {*_EVENTS}
    for source in launch.sources:
        named = name_and_port(source.place)[1] if source.kind == DNS else None
        found.add(named or _HTTP)
    return sorted(found)


def are_near(launch: Launch) -> bool:
    """Whether all engines are in the service's own namespace of a cluster, as their names tell."""
    return not launch.sources and all(near(host) for host, _ in _named(launch))


def other_servers(launch: Launch) -> list[tuple[str, int]]:
    """Hosts and ports of the servers that settings name: of the store, an index, a renderer and a collector."""
    settings = launch.settings
    found: list[tuple[str, int]] = []
    if store := parse_shared_state(settings.get("SHARED_STATE", "")):
        found += store.hosts
        if store.kind:  # the servers that Sentinels or the cluster name
            found += [(host, _STORE) for host, _ in store.hosts]
    for name in _URLS:
        url = urlsplit(settings.get(name, "").strip())
        if url.hostname:
            found.append((url.hostname, url.port or (443 if url.scheme == "https" else 80)))
    return found


def _named(launch: Launch) -> Iterator[tuple[str, int]]:
    """Hosts and ports of the engines that the options name."""
    for pod in pods_asked(launch):
        url = urlsplit(pod.url)
        yield url.hostname or "", pod.port
    for address in addresses_listened_to(launch):
        at = host_port(address)
        if at is not None and at.port is not None:
            yield at.host, at.port


def near(host: str) -> bool:
    """Whether a name is that of a Service, or of a pod behind one."""
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return host.count(".") < 2
    return False
