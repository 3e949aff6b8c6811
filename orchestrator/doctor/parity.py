"""Asks the pods of --pod whether they compute the same tokens as the service would."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import closing

from orchestrator.doctor.finding import Finding, ok, warning
from orchestrator.errors import Problem, RuntimeUnavailable, ToolFailed
from orchestrator.launch import Launch
from orchestrator.runtimes.base import RuntimeKind
from orchestrator.runtimes.discovery import connect
from service.contract.compared import Compared, read_compared
from service.contract.pods import PodEntry, with_endpoints_of


def check_parity(launch: Launch, silent: Collection[str] = ()) -> Iterator[Finding]:
    """A finding for each pod and model, without pods of these names. Needs the service half in this Python."""
    for pod in with_endpoints_of(launch.pod_entries, launch.endpoints):
        if pod.name in silent:
            continue
        try:
            yield from _findings(launch, pod)
        except RuntimeUnavailable as error:
            yield ok(f"tokens of {pod.name}", f"left out: {error.what}")
        except ToolFailed as error:
            yield warning(f"tokens of {pod.name}", error.reason, "Start the engine, or correct --pod.")
        except (Problem, ValueError) as error:
            what, remedy = (error.what, error.remedy) if isinstance(error, Problem) else (str(error), "")
            yield warning(f"tokens of {pod.name}", what, remedy or "Ask it by hand: kvcache parity URL")


def _findings(launch: Launch, pod: PodEntry) -> Iterator[Finding]:
    arguments = ["parity", pod.url, "--json"]
    if launch.models_dir is not None:
        arguments.append(f"--models-dir={launch.models_dir.resolve()}")
    if pod.key_file is not None:
        arguments.append(f"--key-file={pod.key_file}")
    lines: list[str] = []
    with closing(connect(RuntimeKind.PROCESS)) as here, closing(here.run_tool("doctor", arguments)) as output:
        try:
            lines.extend(output)
        except ToolFailed:
            if not lines:
                raise
    for compared in read_compared("\n".join(lines)):
        yield finding(pod.name, compared)


def finding(pod: str, compared: Compared) -> Finding:
    """The finding for one model of a pod."""
    name = f"tokens of {pod} for {compared.model}"
    if compared.verdict == "equal":
        return ok(name, f"equal to ours for {compared.compared} requests")
    if compared.verdict == "differs":
        text = (
            f"differ for {len(compared.differing)} of {compared.compared} requests: {compared.request!r} from token "
            f"{compared.position} on, {compared.here!r} here, {compared.engine!r} there"
        )
    else:
        text = f"not known to equal ours: {compared.reason}"
    return warning(name, text, f"{compared.remedy or 'See docs/prompts.md'}.")
