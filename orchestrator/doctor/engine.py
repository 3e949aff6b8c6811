"""Asks the engines of --pod for all that stops or spoils the service's predictions.

The service half sends each of them a few short requests, and listens to its events meanwhile.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from orchestrator.doctor.engine_command import engine_command
from orchestrator.doctor.finding import Finding, Severity, ok, problem, warning
from orchestrator.errors import Problem, RuntimeUnavailable, ToolFailed
from orchestrator.launch import Launch
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.discovery import connect
from service.contract.endpoints import host_port, is_loopback
from service.contract.examined import Examined, read_examined
from service.contract.listening import Heard
from service.contract.pods import PodEntry, with_endpoints_of

_NAMES = {"vllm": "vLLM", "sglang": "SGLang"}
_OTHER_OPTIONS = "Start it with the options of its command line below."
_VLLM_FAULTS = (
    ((0, 9, 0), "publishes no KV events", "0.9.0"),
    ((0, 9, 1), "does not tell the data-parallel ranks of its events apart", "0.9.1"),
    ((0, 14, 0), "does not name LoRA adapters in its events, so that their blocks count for no request", "0.14.0"),
    ((0, 17, 0), "does not tell salts and media of blocks: its ranks become inexact where they are used", "0.17.0"),
)
"""Features that a vLLM before a version lacks, and the version to use; the first that applies is reported."""


def check_engines(launch: Launch, silent: set[str] | None = None) -> Iterator[Finding]:
    """Findings for each pod, and at its end the command line that would be right. Needs the service half here.

    That a pod of `silent` does not answer was said before; the names of others that do not are added.
    """
    silent = set() if silent is None else silent
    pods = {pod.name: pod for pod in with_endpoints_of(launch.pod_entries, launch.endpoints)}
    if not pods:
        return
    arguments = ["examine", f"--pods={','.join(map(str, pods.values()))}"]
    try:
        with closing(connect(RuntimeKind.PROCESS)) as here, closing(here.run_tool("doctor", arguments)) as lines:
            examined = [read_examined(line) for line in lines]
    except RuntimeUnavailable as error:
        yield ok("engines", f"not asked: {error.what}")
        return
    except ToolFailed as error:
        yield warning("engines", error.reason, "Correct --pod.")
        return
    except Problem as error:
        yield warning("engines", error.what, error.remedy)
        return
    on_host: Counter[str] = Counter()
    for one in examined:
        pod = pods[one.pod]
        found = list(findings(pod, one, events_elsewhere=bool(launch.endpoints), resolved_here=not launch.networks))
        if one.problem is not None and pod.name in silent:
            yield from found[1:]
        else:
            yield from found
        if one.problem is not None:
            silent.add(pod.name)
        if any(finding.severity is not Severity.OK for finding in found):
            yield ok(f"command line of {pod.name}", engine_command(pod, one, on_host[pod.host], _model_of(launch)))
        on_host[pod.host] += 1
    yield from shared_names(examined)


def _model_of(launch: Launch) -> str:
    return launch.model if launch.names_model else "MODEL"


def findings(
    pod: PodEntry, examined: Examined, *, events_elsewhere: bool = False, resolved_here: bool = True
) -> Iterator[Finding]:
    """The findings for one pod, in the order in which the service meets the problems.

    A pod that does not answer, or whose events do not come, is a problem. Both are warnings if the names of pods may
    be those of a network of the runtime (not `resolved_here`), and missing sockets with `events_elsewhere`.
    """
    obstacle = problem if resolved_here else warning
    if examined.problem is not None:
        yield obstacle(f"engine {pod.name}", examined.problem, "Start it, for example as below; or correct --pod.")
    else:
        yield _engine(pod, examined)
        yield from _without_sources(pod, examined, warning if events_elsewhere else obstacle)
    for heard in examined.sources:
        yield _source(pod, examined, heard, obstacle)
    if examined.problem is None:
        yield from _reuse(pod, examined)


def _engine(pod: PodEntry, examined: Examined) -> Finding:
    name = f"engine {pod.name}"
    if examined.engine is None:
        return warning(
            name,
            "is neither vLLM nor SGLang, as far as it says (no /version, no /server_info)",
            f"Name its event sockets: --pod {pod.url},events=tcp://HOST:PORT,replay=tcp://HOST:PORT",
        )
    said = f"{_NAMES[examined.engine]} {examined.version or 'of unknown version'}"
    if examined.engine == "vllm" and (version := _numbers(examined.version)) is not None:
        for below, lack, better in _VLLM_FAULTS:
            if version < below:
                return warning(name, f"{said} {lack}", f"Use vLLM {better} or later.")
    loaded = f" (loaded from {examined.root})" if examined.root not in {None, *examined.models[:1]} else ""
    return ok(name, f"{said} serves {', '.join(examined.models) or 'no model'}{loaded}")


def _numbers(version: str | None) -> tuple[int, ...] | None:
    """The numbers of a version; None for one that is no release, such as 0.1.dev1."""
    found = re.match(r"v?(\d+)\.(\d+)(?:\.(\d+))?", version or "")
    if found is None or ".dev" in str(version):
        return None
    return tuple(int(number or 0) for number in found.groups())


def _without_sources(
    pod: PodEntry, examined: Examined, obstacle: Callable[[str, str, str], Finding]
) -> Iterator[Finding]:
    if pod.events is not None or examined.sources:
        return
    if examined.tells_sources:
        said = (
            "it publishes none (KV events are off, or their publisher is null), so that nothing is known of its cache"
        )
        yield obstacle(f"events of {pod.name}", said, _OTHER_OPTIONS)
    else:
        yield obstacle(
            f"events of {pod.name}",
            "it does not say where they are (vLLM does so since 0.32)",
            f"If it publishes any, say where: --pod {pod.url},events=tcp://{_host(pod)}:5557,"
            f"replay=tcp://{_host(pod)}:5558. If not: {_OTHER_OPTIONS}",
        )


def _host(pod: PodEntry) -> str:
    return f"[{pod.host}]" if ":" in pod.host else pod.host


def _source(pod: PodEntry, examined: Examined, heard: Heard, obstacle: Callable[[str, str, str], Finding]) -> Finding:
    name = f"events of {pod.name} at {heard.address}"
    if (unheard := _unheard(pod, examined, heard)) is not None:
        # A connected socket may belong to an idle engine, or to a rank that got none of the requests.
        idle = heard.connected and not heard.problem and not heard.unreadable
        unknown = examined.problem is not None or examined.unanswered is not None
        others = any(one.messages for one in examined.sources)
        return (warning if idle and (unknown or others) else obstacle)(name, *unheard)
    if (misnamed := _misnamed(pod, examined, heard)) is not None:
        return warning(name, *misnamed)
    if heard.replay is None:
        return warning(
            name,
            f"{_summary(examined, heard)}; but there is no replay socket: lost messages make the rank inexact",
            'Start it with "replay_endpoint": "tcp://*:PORT" in --kv-events-config, as in its command line below.',
        )
    if heard.replay_problem:
        return warning(
            name,
            f"{_summary(examined, heard)}; but the replay socket {heard.replay} gives nothing: {heard.replay_problem}",
            "Let this machine reach its port, too.",
        )
    return ok(name, f"{_summary(examined, heard)}, replay at {heard.replay}")


def _unheard(pod: PodEntry, examined: Examined, heard: Heard) -> tuple[str, str] | None:
    """Why no readable message came, and the remedy."""
    if heard.problem:
        return heard.problem, _OTHER_OPTIONS
    if not heard.connected:
        return _unreached(pod, heard)
    if heard.unreadable:
        return f"a message cannot be read: {heard.unreadable}", "Name the port of the engine's `endpoint`."
    if heard.messages:
        return None
    if examined.problem is not None or examined.unanswered is not None:
        return "connected, but idle", "Engines publish only while they work: send it a request, and look again."
    return "connected, but its requests made no event", "Is prefix caching on? See below; or is this another's port?"


def _unreached(pod: PodEntry, heard: Heard) -> tuple[str, str]:
    """Why nothing listens at an address, as far as its host tells, and the remedy."""
    at = host_port(heard.address)
    host, port = (at.host.strip("[]"), at.port) if at is not None else (pod.host, None)
    if is_loopback(host) and not is_loopback(pod.host):
        return f"{host} is the service's own machine, and not the engine's", f'Use "endpoint": "tcp://*:{port}".'
    if host == pod.host or (is_loopback(host) and is_loopback(pod.host)):
        return "nothing listens there", "Let this machine reach the port (firewall, published ports of its container)."
    return (
        "nothing listens there: the host is wrong, or the engine itself connects there, as to each address without *",
        f'Use "endpoint": "tcp://*:{port}"; or let the service listen there: --zmq-endpoint \'tcp://*:{port}\'.',
    )


def _misnamed(pod: PodEntry, examined: Examined, heard: Heard) -> tuple[str, str] | None:
    """The name in its topics that the service would not understand, and the remedy."""
    other = next((name for name in heard.pods if name != pod.name), None)
    if other is not None and not examined.tells_sources:
        return (
            f"its topic names it {other}, so that its blocks count for another pod than {pod.name}",
            f"Say so: --pod {pod.url},name={other},…",
        )
    known = {*examined.models, examined.root}
    model = next((model for model in heard.models if model not in known), None)
    if model is not None and examined.models:
        return (
            f"its topic names the model {model}, but requests name {examined.models[0]}: no request finds its blocks",
            _OTHER_OPTIONS,
        )
    return None


def _summary(examined: Examined, heard: Heard) -> str:
    parts = [f"topic {', '.join(map(repr, heard.topics))}"]
    if heard.block_sizes:
        parts.append(f"block size {', '.join(map(str, heard.block_sizes))}")
    if heard.hash_bits:
        named = f" ({examined.hash_algorithm})" if examined.hash_algorithm else ""
        parts.append(
            f"hashes of {', '.join(map(str, heard.hash_bits))} bits{named}, whose algorithm and seed do not matter"
        )
    return ", ".join(parts)


def _reuse(pod: PodEntry, examined: Examined) -> Iterator[Finding]:
    name = f"reuse of {pod.name}"
    if examined.prefix_caching is False:
        yield warning(name, "prefix caching is off", "Start it without --no-enable-prefix-caching.")
    elif examined.unanswered is not None:
        yield warning(name, f"not known: {examined.unanswered}", "Send it a completion by hand.")
    elif examined.tells_reuse is False:
        option = "--enable-cache-report" if examined.engine == "sglang" else "--enable-prompt-tokens-details"
        yield warning(
            name,
            "its usage does not tell cached_tokens, so that predictions are not compared with what it reuses",
            f"Start it with {option}.",
        )
    elif examined.tells_reuse and not examined.reused_tokens:
        off = "--disable-radix-cache" if examined.engine == "sglang" else "--no-enable-prefix-caching"
        yield warning(name, "nothing of a repeated prompt: is prefix caching off?", f"Start it without {off}.")
    elif examined.tells_reuse:
        yield ok(name, f"{examined.reused_tokens} tokens of a repeated prompt, as its usage tells")


def shared_names(examined: Sequence[Examined]) -> Iterator[Finding]:
    """A finding for each name under which several engines publish: the service believes only the first."""
    pods_of = defaultdict(set)
    for one in examined:
        for heard in one.sources:
            for name in heard.pods:
                pods_of[name].add(one.pod)
    for name, pods in pods_of.items():
        if len(pods) > 1:
            yield warning(
                "topics",
                f"{' and '.join(sorted(pods))} publish under one name, {name}: the service refuses all but the first",
                "Give each a topic of its own.",
            )
