"""Listens to the engines for a few seconds, as the service would, and reports the messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from orchestrator.doctor.finding import Finding, ok, warning
from orchestrator.errors import Problem, RuntimeUnavailable, ToolFailed
from orchestrator.launch import Launch
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.discovery import connect
from service.contract.endpoints import format_endpoints
from service.contract.listening import Heard, read_heard

_SECONDS = 3


def check_listening(launch: Launch) -> Iterator[Finding]:
    """A finding for each address of --zmq-endpoint that the service connects to. Needs the service half in this Python.

    The events of engines with a URL are those of `check_engines`.
    """
    endpoints = [one for one in launch.endpoints if not one.binds and one.url is None]
    if not endpoints:
        return
    arguments = [
        "listen",
        f"--endpoints={format_endpoints(endpoints)}",
        f"--model={launch.model}",
        f"--for={_SECONDS}s",
    ]
    try:
        with closing(connect(RuntimeKind.PROCESS)) as here, closing(here.run_tool("doctor", arguments)) as lines:
            for line in lines:
                yield finding(read_heard(line), launch)
    except RuntimeUnavailable as error:
        yield ok("listening", f"left out: {error.what}")
    except ToolFailed as error:
        yield warning("listening", error.reason, "Correct --zmq-endpoint.")
    except Problem as error:
        yield warning("listening", error.what, error.remedy)


def finding(heard: Heard, launch: Launch) -> Finding:
    """The finding for one endpoint, as a service of this launch would see it."""
    name = f"listening to {heard.address}"
    if (found := _nothing_usable(heard) or _ignored(heard, launch)) is not None:
        return warning(name, *found)
    if heard.replay_problem:
        return warning(
            name,
            f"{_summary(heard)}; but the replay socket gives nothing: {heard.replay_problem}",
            'Engine: "replay_endpoint": "tcp://*:PORT"; without it, lost messages make its scores inexact.',
        )
    return ok(name, _summary(heard))


def _nothing_usable(heard: Heard) -> tuple[str, str] | None:
    """The reason why no readable message arrived, and the change to make on the engine."""
    if heard.problem:
        return heard.problem, "Correct --zmq-endpoint."
    if not heard.connected:
        return (
            "no ZeroMQ publisher answers",
            "Start the engine with --kv-events-config; see its line above, too. If something answers there, it has "
            "another port than the engine's KV events.",
        )
    if heard.unreadable:
        return (
            f"a message cannot be read: {heard.unreadable}",
            "Name the port of the engine's `endpoint`.",
        )
    if not heard.messages:
        return (
            f"connected, but no message in {_SECONDS} s",
            "Engines publish only while they work: send one a request. If still nothing comes: prefix caching on, and "
            '--kv-events-config \'{"enable_kv_cache_events": true, "publisher": "zmq"}\'.',
        )
    return None


def _ignored(heard: Heard, launch: Launch) -> tuple[str, str] | None:
    """The topic that the service does not subscribe to, and the setting that would subscribe to it."""
    if any(one.address == heard.address and (one.pod or one.model) for one in launch.endpoints):
        return None  # its topics are not filtered
    prefix = launch.zmq_topic
    topic = next((one for one in heard.topics if not one.startswith(prefix)), None)
    if topic is None:
        return None
    here = f"--zmq-topic '' or --zmq-endpoint {heard.address},pod=HOST:PORT"
    return (
        f"topic {topic!r} does not start with {prefix!r}, so the service ignores it",
        f'On the engine: "topic": "kv@POD@MODEL"; or here: {here}',
    )


def _summary(heard: Heard) -> str:
    parts = [
        f"topic {', '.join(map(repr, heard.topics))}",
        f"{heard.messages} messages",
        f"model {', '.join(heard.models)}",
    ]
    if heard.block_sizes:
        parts.append(f"block size {', '.join(map(str, heard.block_sizes))}")
    if heard.hash_bits:
        parts.append(f"hash {', '.join(map(str, heard.hash_bits))} bits")
    if heard.replay_from is not None:
        parts.append(f"replay answers from {heard.replay_from}")
    elif heard.replay is None:
        parts.append("no replay socket named")
    return ", ".join(parts)
