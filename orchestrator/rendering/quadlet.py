"""A launch as a unit for Podman's Quadlet, which makes a service of systemd of it."""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.health import host_and_port
from orchestrator.launch import Launch
from orchestrator.rendering.portable import IMAGE_USER, Place, portable
from orchestrator.runtimes.base import RuntimeKind, Workload
from orchestrator.runtimes.hardening import SECOND, podman_restrictions

_PLACE = Place(RuntimeKind.PODMAN, rootless=True)
_HEAD = """\
# A systemd unit for Podman 5 (4.4 has no ReadOnlyTmpfs): ~/.config/containers/systemd/kvcache.container, or in
# /etc/containers/systemd/. Then: systemctl --user daemon-reload && systemctl --user start kvcache
# Change settings in a drop-in: kvcache.container.d/settings.conf with [Container] and Environment= lines.
"""
_UNIT = """\
[Unit]
Description=kvcache: tells which LLM engine holds the longest prefix of a prompt
After=network-online.target
Wants=network-online.target

[Container]
"""
_SERVICE = """
[Service]
Restart=on-failure
TimeoutStartSec=60
"""
_INSTALL = """
[Install]
WantedBy=default.target
"""
_SYSTEMD_WAITS = 90
_REMOVAL = 20
"""Seconds that systemd gives a stop, and that Podman may need of them for more than the wait for the service."""


def quadlet(launch: Launch) -> str:
    """The text of a unit; secrets are those of `podman secret`, which a comment names. Raises Problem."""
    found = portable(launch, _PLACE)
    workload = found.workload
    names = (*found.secrets, *(("HF_TOKEN",) if launch.token else ()))
    secrets = {name: f"{workload.name}-{name.lower().replace('_', '-')}" for name in names}
    asked = "".join(
        f"# It needs a secret: printf %s … | podman secret create {secret} -\n" for secret in secrets.values()
    )
    lines = [
        *_lines(workload),
        *(f"Secret={secret},type=env,target={name}" for name, secret in secrets.items()),
        *_restrictions(workload),
        f"StopTimeout={launch.stop_seconds}",
    ]
    return _HEAD + asked + _UNIT + "\n".join(lines) + "\n" + _tail(launch.stop_seconds)


def _tail(stop_seconds: int) -> str:
    seconds = stop_seconds + _REMOVAL
    return _SERVICE + (f"TimeoutStopSec={seconds}\n" if seconds > _SYSTEMD_WAITS else "") + _INSTALL


def _lines(workload: Workload) -> Iterator[str]:
    yield f"Image={_image(workload.image)}"
    yield f"ContainerName={workload.name}"
    yield "Pull=never"
    for published in workload.publications:
        yield f"PublishPort={host_and_port(published.address, published.port)}:{published.port}"
    for name, value in workload.environment.items():
        yield f"Environment={_word(f'{name}={value}')}"
    for mount in workload.mounts:
        options = f"{'ro' if mount.read_only else 'rw'},{'Z' if mount.private else 'z'}"
        yield f"Volume={_word(f'{mount.source}:{mount.target}:{options}')}"
    for volume in workload.volumes:
        yield f"Volume={volume.name}:{volume.target}"
    for network in workload.networks:
        yield f"Network={network}"


def _restrictions(workload: Workload) -> Iterator[str]:
    """The restrictions that `kvcache up` gives podman-py, in the words of Quadlet."""
    given = podman_restrictions(workload)
    (tmp,) = given["mounts"]
    check = given["healthcheck"]
    if workload.user != IMAGE_USER:
        user, _, group = workload.user.partition(":")
        yield f"User={user}"
        yield f"Group={group}"
    if workload.as_caller:
        yield f"UserNS=keep-id:{given['userns_mode']['value']}"
    yield f"ReadOnly={str(given['read_only']).lower()}"
    yield f"ReadOnlyTmpfs={str(given['read_write_tmpfs']).lower()}"
    yield f"Tmpfs={tmp['target']}:size={tmp['size']},mode={tmp['mode']}"
    for capability in given["cap_drop"]:
        yield f"DropCapability={capability.lower()}"
    yield f"NoNewPrivileges={str(given['no_new_privileges']).lower()}"
    yield f"PidsLimit={given['pids_limit']}"
    for name, value in given["sysctls"].items():
        yield f"Sysctl={name}={value}"
    if workload.memory:
        yield f"PodmanArgs=--memory={workload.memory}"
    if workload.cpus:
        yield f"PodmanArgs=--cpus={workload.cpus:g}"
    yield f"HealthCmd={' '.join(check['Test'][1:])}"
    for key, name in (
        ("Interval", "HealthInterval"),
        ("Timeout", "HealthTimeout"),
        ("StartPeriod", "HealthStartPeriod"),
    ):
        yield f"{name}={check[key] // SECOND}s"
    yield f"HealthRetries={check['Retries']}"
    yield "HealthOnFailure=kill"


def _image(reference: str) -> str:
    """The whole name of an image, as Quadlet wants it: one that was built here belongs to localhost."""
    name = reference if ":" in reference.rpartition("/")[2] or "@" in reference else f"{reference}:latest"
    first = name.partition("/")[0]
    return name if "/" in name and ("." in first or ":" in first or first == "localhost") else f"localhost/{name}"


def _word(text: str) -> str:
    """One word of systemd, in which it replaces neither specifiers nor variables."""
    escaped = text.replace("%", "%%").replace("$", "$$")
    if not any(character in escaped for character in " \t\"'\\"):
        return escaped
    quoted = escaped.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted}"'
