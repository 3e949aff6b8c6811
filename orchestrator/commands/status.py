"""`kvcache status`: every service of ours, or the named one, as reported by its runtime and by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from orchestrator.console import Console, terminal
from orchestrator.errors import RuntimeUnavailable
from orchestrator.exposition import totals
from orchestrator.health import API_KEY_VARIABLE, ask, ask_text, host_and_port
from orchestrator.readiness import reasons
from orchestrator.runtimes.base import (
    ADDRESS_LABEL,
    MODEL_LABEL,
    OWNER_LABEL,
    PORT_LABEL,
    ContainerRuntime,
    Health,
    RuntimeKind,
    Service,
)
from orchestrator.runtimes.deployed import no_service, wanted
from orchestrator.runtimes.discovery import answering


@dataclass(frozen=True)
class Report:
    """The service's own report: readiness, reasons, number of pods and blocks."""

    ready: bool
    reasons: tuple[str, ...]
    pods: int = 0
    blocks: int = 0
    exact: bool = True
    compiled: bool = True
    """Whether the inner loops are compiled; without them the service is slower."""
    endpoints: tuple[dict[str, Any], ...] = ()
    """The engine endpoints in the response of GET /endpoints."""
    open_to_others: bool = False
    """Whether other machines reach it without key and client certificate."""
    refused: bool = False
    """Whether it wants an API key that this command does not have, or a client certificate."""
    shared_state: str | None = None
    """Whether the Valkey where replicas meet answers; None without one."""
    fleet: tuple[dict[str, Any], ...] = ()
    """The pods that requests are forwarded to, in the response of GET /pods."""
    discovery: tuple[dict[str, Any], ...] = ()
    """The sources of pods, in the response of GET /pods."""


@dataclass(frozen=True)
class Status:
    """One service. `uptime` is in seconds; `report` is None if the service does not answer."""

    name: str
    deployment: str
    """Its own name, or that which it has in common with other replicas and their Valkey."""
    role: str
    """replica or valkey."""
    runtime: str
    image: str
    state: str
    health: str
    ports: tuple[str, ...]
    uptime: float | None
    detached: bool
    model: str
    report: Report | None


def show_status(name: str | None, kind: RuntimeKind | None, *, as_json: bool) -> None:
    """Prints all services, or those with a name, which several runtimes may have.

    Raises typer.Exit(1) if there is none, and Problem if none has the name.
    """
    found: list[Status] = []
    silent: list[RuntimeUnavailable] = []
    for runtime in answering(kind, silent):
        with closing(runtime):
            found.extend(_status(runtime, service) for one in wanted(runtime, name) for service in one.services)
    if name is not None and not found:
        raise no_service(name, silent)
    for error in silent:
        Console().warn(f"Not every runtime answers: {error.what}", error.remedy)
    if as_json:
        typer.echo(json.dumps([{**asdict(status), "engine": status.runtime} for status in found], indent=2))
    elif found:
        for status in found:
            _print(status)
    else:
        typer.echo("No service is up. Start one: kvcache up")
    if not found:
        raise typer.Exit(1)


def _status(runtime: ContainerRuntime, service: Service) -> Status:
    return Status(
        name=service.name,
        deployment=service.deployment,
        role="valkey" if service.is_store else "replica",
        runtime=service.runtime,
        image=service.image,
        state=service.state,
        health=runtime.confirm_health(service.name) if service.running and not service.is_store else Health.UNKNOWN,
        ports=tuple(host_and_port(published.address, published.port) for published in service.publications),
        uptime=None if service.started_at is None else round(time.time() - service.started_at, 1),
        detached=OWNER_LABEL not in service.labels,
        model=service.labels.get(MODEL_LABEL, ""),
        report=_report(service) if service.running and not service.is_store else None,
    )


def _report(service: Service) -> Report | None:
    address, port = service.labels.get(ADDRESS_LABEL, ""), int(service.labels.get(PORT_LABEL, 0))
    tls = service.tls
    ready = ask(address, port, "/ready", tls=tls)
    listed = ask(address, port, "/pods", tls=tls)
    if ready is None or listed is None or listed[0] not in {200, 401, 403}:
        return None
    if listed[0] != 200:
        return Report(ready[0] == 200, reasons(ready[1]), refused=True, shared_state=ready[1].get("shared_state"))
    stranger = ask(address, port, "/pods", tls=tls, with_key=False)
    ranks: list[dict[str, Any]] = listed[1]["pods"]
    return Report(
        ready=ready[0] == 200,
        reasons=reasons(ready[1]),
        pods=len({rank["pod"] for rank in ranks}),
        blocks=sum(sum(rank["blocks"].values()) for rank in ranks),
        exact=all(rank["exact"] for rank in ranks),
        compiled=totals(ask_text(address, port, "/metrics", tls=tls)).get("kvcache_native_compiled", 1) == 1,
        endpoints=_endpoints(address, port, tls=tls),
        open_to_others=not _is_loopback(address) and stranger is not None and stranger[0] == 200,
        shared_state=ready[1].get("shared_state"),
        fleet=tuple(listed[1].get("fleet", ())),
        discovery=tuple(listed[1].get("discovery", ())),
    )


def _print(status: Status) -> None:
    rows = {
        **({"replica of": status.deployment} if status.role == "replica" and status.name != status.deployment else {}),
        **({"Valkey of": status.deployment} if status.role == "valkey" else {}),
        "runtime": status.runtime,
        "image": status.image or "none",
        "state": f"{status.state}{_health(status)}{_since(status.uptime)}{', detached' if status.detached else ''}",
        "ports": ", ".join(status.ports) or "none",
    }
    if status.role == "replica":
        rows |= {"model": status.model or "what the pods serve", "service": _told(status.report)}
    if status.report and status.report.shared_state:
        rows["Valkey"] = status.report.shared_state
    if status.report and status.report.open_to_others:
        rows["access"] = "other machines may use all of it without a key (API_KEYS)"
    for number, endpoint in enumerate(status.report.endpoints if status.report else ()):
        rows["events" if not number else f"events {number + 1}"] = endpoint_line(endpoint)
    for number, pod in enumerate(status.report.fleet if status.report else ()):
        rows["pods" if not number else f"pods {number + 1}"] = pod_line(pod)
    for number, source in enumerate(status.report.discovery if status.report else ()):
        rows["sources" if not number else f"sources {number + 1}"] = source_line(source)
    table = Table.grid(padding=(0, 2))
    for name, value in rows.items():
        table.add_row(f"  {name}", Text(value, overflow="fold"))
    output = terminal()
    output.print(status.name, style="bold", markup=False, soft_wrap=True)
    output.print(table)


def _health(status: Status) -> str:
    return f" ({status.health})" if status.uptime is not None and status.role == "replica" else ""


def _since(uptime: float | None) -> str:
    if uptime is None:
        return ""
    minutes, seconds = divmod(int(uptime), 60)
    hours, minutes = divmod(minutes, 60)
    return f" for {hours} h {minutes} min" if hours else f" for {minutes} min {seconds} s"


def _is_loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:  # the name of another machine
        return False


def _endpoints(address: str, port: int, *, tls: bool) -> tuple[dict[str, Any], ...]:
    answer = ask(address, port, "/endpoints", tls=tls)
    return tuple(answer[1]["endpoints"]) if answer is not None and answer[0] == 200 else ()


def endpoint_line(endpoint: dict[str, Any]) -> str:
    """One source of events: its state, and why nothing comes, with the remedy."""
    told = f"{endpoint['address']}: {endpoint['state']}, {endpoint['messages']} messages"
    if not endpoint["problem"]:
        return told
    return f"{told}; {endpoint['problem'].removeprefix(endpoint['address'] + ': ')}"


def pod_line(pod: dict[str, Any]) -> str:
    """One pod that requests are forwarded to: its health, its load, and whether our tokens equal its engine's."""
    health = {True: "healthy", False: f"down ({pod['problem']})", None: "not asked yet"}[pod["healthy"]]
    return "; ".join((f"{pod['name']}: {health}", *_load(pod), *(_parity(parity) for parity in pod.get("parity", ()))))


def source_line(source: dict[str, Any]) -> str:
    """One source of pods: how many it names, or why it fails or leaves one out."""
    pods = "1 pod" if source["pods"] == 1 else f"{source['pods']} pods"
    if source["failing"]:
        return f"{source['source']}: fails ({source['problem']}); keeps {pods}"
    return f"{source['source']}: {pods}{f' ({problem})' if (problem := source['problem']) else ''}"


def _load(pod: dict[str, Any]) -> Iterator[str]:
    if pod.get("draining"):
        yield "draining"
    if pod["healthy"] and pod.get("breaker", "closed") != "closed":
        yield f"circuit breaker {pod['breaker'].replace('_', ' ')} ({pod['problem']})"
    if pod.get("weight", 1) != 1:
        yield f"weight {pod['weight']:g}"
    if pod.get("in_flight"):
        yield f"{pod['in_flight']} in flight"
    if pod.get("running") is not None:
        yield f"{pod['running']:g} running, {pod['waiting']:g} waiting"


def _parity(parity: dict[str, Any]) -> str:
    match parity["verdict"]:
        case "equal":
            return f"{parity['model']}: tokens equal"
        case "differs":
            return f"{parity['model']}: tokens differ ({', '.join(parity['differing'])}). {parity['remedy']}"
        case _:
            return f"{parity['model']}: tokens not known to be equal ({parity['reason']})"


def _told(report: Report | None) -> str:
    if report is None:
        return "does not answer"
    if report.refused:
        state = "ready" if report.ready else "not ready"
        return f"{state}; more is shown with an API key that may read, in {API_KEY_VARIABLE}"
    ready = "ready" if report.ready else f"not ready: {'; '.join(report.reasons)}"
    exact = "" if report.exact else ", not all exact (GET /pods says why)"
    slow = "" if report.compiled else "; its inner loops are not compiled, so it is slower"
    pods = "1 pod" if report.pods == 1 else f"{report.pods} pods"
    return f"{ready}; {pods}, {report.blocks} blocks{exact}{slow}"
