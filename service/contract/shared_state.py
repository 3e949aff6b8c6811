"""The grammar of SHARED_STATE: where the replicas of a fleet meet."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode

_URL = re.compile(
    r"(?P<scheme>valkey|redis)(?P<tls>s)?(\+(?P<kind>sentinel|cluster))?://"
    r"((?P<username>[^:@/?#]*)(:(?P<password>[^@/?#]*))?@)?"
    r"(?P<hosts>[^/?#@]+)(?P<path>/[^?#]*)?(\?(?P<options>[^#]*))?"
)
_HOST = re.compile(r"(\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<name>[^:\[\]\s]+))(:(?P<port>\d{1,5}))?")
_PREFIX = re.compile(r"[A-Za-z0-9._:/-]{1,100}")
_OPTIONS: Final = ("ca", "cert", "key", "password_file", "sentinel_password_file")
_FORMS: Final = (
    "valkey://[USER:PASSWORD@]HOST[:PORT][/DATABASE], valkeys:// for TLS, "
    "valkey+sentinel://HOST[:PORT],…/NAME[/DATABASE] or valkey+cluster://HOST[:PORT],…; redis as valkey"
)


@dataclass(frozen=True, slots=True)
class ValkeyAddress:
    """A Valkey or Redis: one server, the primary `service` that Sentinels name, or a cluster.

    `hosts` are the servers, or those of Sentinels or some of the cluster. `ca`, `cert` and `key` are PEM files,
    `password_file` and `sentinel_password_file` files with a password.
    """

    hosts: tuple[tuple[str, int], ...]
    kind: str = ""
    """Empty for one server, sentinel, or cluster."""
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    service: str | None = None
    database: int = 0
    ca: str | None = None
    cert: str | None = None
    key: str | None = None
    password_file: str | None = None
    sentinel_password_file: str | None = None

    @property
    def files(self) -> dict[str, str]:
        """The files that it names, by option."""
        return {option: file for option in _OPTIONS if (file := getattr(self, option))}

    def __str__(self) -> str:
        """The address without a password."""
        scheme = f"valkey{'s' if self.tls else ''}{f'+{self.kind}' if self.kind else ''}"
        hosts = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in self.hosts)
        return f"{scheme}://{hosts}" + (f"/{self.service}" if self.service else "")


def parse_shared_state(text: str) -> ValkeyAddress | None:
    """Reads SHARED_STATE; None for an empty text. Raises ValueError, whose text has no password."""
    if not text.strip():
        return None
    found = _URL.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"must be {_FORMS}")
    kind, path = found["kind"] or "", [unquote(part) for part in (found["path"] or "").strip("/").split("/") if part]
    service = path.pop(0) if kind == "sentinel" and path else None
    if kind == "sentinel" and service is None:
        raise ValueError("must end with the name of the primary that the Sentinels know, such as /mymaster")
    if len(path) > 1 or not all(part.isdecimal() and len(part) < 6 for part in path) or (path and kind == "cluster"):
        raise ValueError(f"must be {_FORMS}")
    options = dict(parse_qsl(found["options"] or "", keep_blank_values=True))
    for name, value in options.items():
        if name not in _OPTIONS or not value:
            raise ValueError(f"{name}={value} must be one of {', '.join(f'{one}=FILE' for one in _OPTIONS)}")
    if not found["tls"] and any(name in options for name in ("ca", "cert", "key")):
        raise ValueError("has files for TLS, which valkeys:// uses")
    username, password = found["username"], found["password"]
    return ValkeyAddress(
        _hosts(found["hosts"], 26379 if kind == "sentinel" else 6379),
        kind,
        found["tls"] is not None,
        unquote(username) if username else None,
        unquote(password) if password else None,
        service,
        int(path[0]) if path else 0,
        **options,
    )


def moved(text: str, host: Callable[[str], str], file: Callable[[str], str]) -> str:
    """SHARED_STATE with `host(…)` for each host and `file(…)` for each file; all else stays. Raises ValueError."""
    found = _URL.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"must be {_FORMS}")
    start, end = found.span("hosts")
    hosts = ",".join(_moved_host(part.strip(), host) for part in found["hosts"].split(","))
    if found["options"] is None:
        return f"{found.string[:start]}{hosts}{found.string[end:]}"
    options = urlencode({name: file(value) for name, value in parse_qsl(found["options"])}, safe="/")
    return f"{found.string[:start]}{hosts}{found.string[end : found.start('options')]}{options}"


def _moved_host(part: str, host: Callable[[str], str]) -> str:
    found = _HOST.fullmatch(part)
    if found is None:
        raise ValueError(f"{part!r} must be HOST or HOST:PORT")
    old = found["six"] or found["name"]
    new = host(old)
    return part if new == old else f"{new}:{found['port']}" if found["port"] else new


def _hosts(text: str, port: int) -> tuple[tuple[str, int], ...]:
    hosts = []
    for part in text.split(","):
        found = _HOST.fullmatch(part.strip())
        if found is None or not 0 < int(found["port"] or port) < 65536:
            raise ValueError(f"{part!r} must be HOST or HOST:PORT")
        hosts.append((found["six"] or found["name"], int(found["port"] or port)))
    return tuple(hosts)


def parse_prefix(text: str) -> str:
    """Reads SHARED_STATE_PREFIX. Raises ValueError."""
    if not _PREFIX.fullmatch(text.strip()):
        raise ValueError("must be of letters, digits and ._:/- and have 100 characters at most")
    return text.strip()
