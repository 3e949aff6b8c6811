"""Pods that receive requests: the grammar of PODS and `--pod`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from service.contract.endpoints import Endpoint, parse_endpoints

_OPTIONS = ("name", "events", "replay", "model", "key_file")
_NEXT_URL = re.compile(r",(?=https?://)")
_NOT_IN_URLS = re.compile(r"[^!-~]|,")


@dataclass(frozen=True, slots=True)
class PodEntry:
    """A pod as the operator configures it: an engine's URL, and values that the engine does not publish.

    `events` and `replay` are the ZeroMQ addresses of its first rank, `model` is the name in requests, and `key_file`
    contains the API key of the engine.
    """

    url: str
    name: str
    events: str | None = None
    replay: str | None = None
    model: str | None = None
    key_file: str | None = None

    @property
    def host(self) -> str:
        """The host of the URL, an IPv6 address without brackets."""
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or (443 if self.is_tls else 80)

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("https://")

    @property
    def path(self) -> str:
        """The base path of the URL, without a trailing slash; usually empty."""
        return urlsplit(self.url).path.rstrip("/")

    @property
    def server(self) -> tuple[bool, str, int, str]:
        """Equal for two URLs of one server."""
        host = "127.0.0.1" if self.host == "localhost" else self.host
        return self.is_tls, host, self.port, self.path

    @property
    def endpoint(self) -> Endpoint | None:
        if self.events is None:
            return None
        return Endpoint(self.events, pod=self.name, model=self.model, replay=self.replay)

    def __str__(self) -> str:
        """The entry as `parse_pods` reads it."""
        options = (f"{name}={value}" for name in _OPTIONS if (value := getattr(self, name)) is not None)
        return ",".join((self.url, *options))


def parse_pods(text: str) -> tuple[PodEntry, ...]:
    """Reads `URL[,name=…][,events=…][,replay=…][,model=…][,key_file=…]`, several separated by commas.

    Raises ValueError with a sentence that names the invalid part.
    """
    pods = tuple(_parse_pod(part) for part in _NEXT_URL.split(text.strip())) if text.strip() else ()
    check_distinct(pods)
    return pods


def check_distinct(pods: Iterable[PodEntry]) -> None:
    """Raises ValueError if two pods have one name, or one URL."""
    names: set[str] = set()
    servers: set[tuple[bool, str, int, str]] = set()
    for pod in pods:
        if pod.name in names:
            raise ValueError(f"two pods have the name {pod.name}: give one of them another name=")
        if pod.server in servers:
            raise ValueError(f"two pods have the URL {pod.url}")
        names.add(pod.name)
        servers.add(pod.server)


def with_endpoints_of(pods: Iterable[PodEntry], endpoints: Iterable[Endpoint]) -> tuple[PodEntry, ...]:
    """The pods, and those of endpoints with `url=` that are not among them by name or URL.

    Raises ValueError for a URL that no pod can have.
    """
    found = list(pods)
    for endpoint in endpoints:
        if endpoint.url is None:
            continue
        options = {
            "name": endpoint.pod,
            "model": endpoint.model,
            "events": None if endpoint.binds else endpoint.address,
        }
        entry = pod_entry(endpoint.url, {name: value for name, value in options.items() if value is not None})
        if all(entry.name != pod.name and entry.server != pod.server for pod in found):
            found.append(entry)
    return tuple(found)


def _parse_pod(text: str) -> PodEntry:
    url, *options = (part.strip() for part in text.split(","))
    values: dict[str, str] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in _OPTIONS or not value:
            raise ValueError(f"{option!r} must be one of {', '.join(f'{one}=…' for one in _OPTIONS)}")
        values[name] = value
    return pod_entry(url, values)


def pod_entry(url: str, options: Mapping[str, str]) -> PodEntry:
    """The entry of a pod, with the options of `parse_pods` by name. Raises ValueError as `parse_pods` does.

    A value with a comma is refused, because the text of the entry would have further options; one with a line break or
    another control character, because names and paths stand in HTTP headers.
    """
    for name, value in options.items():
        if not value.strip() or "," in value or not value.isprintable():
            raise ValueError(f"{name}={value!r} must not be empty or have a comma or a control character")
    url = url.rstrip("/").removesuffix("/v1")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError(f"{url!r} is not a valid URL, such as http://10.0.0.7:8000") from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.username:
        raise ValueError(f"{url!r} is not a valid URL, such as http://10.0.0.7:8000")
    if _NOT_IN_URLS.search(url) is not None:
        raise ValueError(f"{url!r} is not a valid URL, such as http://10.0.0.7:8000")
    for address in filter(None, (options.get("events"), options.get("replay"))):
        parse_endpoints(address)
    url = parts.scheme + url[len(parts.scheme) :]  # in lower case
    name = parts.netloc if port else f"{parts.netloc}:{443 if parts.scheme == 'https' else 80}"
    return PodEntry(url, **{"name": name, **options})
