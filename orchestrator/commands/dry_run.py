"""`kvcache up --dry-run`: prints the build and run steps as the runtime's own command line."""

from __future__ import annotations

import os
import shlex
import sys
from contextlib import closing

import typer

from orchestrator.cautions import cautions
from orchestrator.console import Console
from orchestrator.deployment import check_runtime, deployment_of
from orchestrator.health import host_and_port
from orchestrator.image import loops_of_current_image, must_build, recipe
from orchestrator.launch import Launch
from orchestrator.publishing import check_address, taken_ports
from orchestrator.runtimes.base import Images, Mount, RuntimeKind, Workload
from orchestrator.runtimes.discovery import choose
from orchestrator.runtimes.hardening import flags
from orchestrator.store import prepare_store
from orchestrator.workload import prepare
from service.contract.containers import HOST_NAME


def dry_run(launch: Launch, console: Console) -> None:
    """Prints without changing anything. Raises Problem where `up` would, as far as this is visible beforehand."""
    choice = choose(launch.runtime)
    with closing(choice.runtime) as runtime:
        console.step(f"# {runtime.description} ({choice.reason})")
        check_runtime(launch, runtime.kind)
        check_address(launch, runtime)
        deployment = deployment_of(launch)
        for caution in cautions(launch, runtime):
            console.warn(*caution)
        for port, holder in taken_ports(deployment.replicas, runtime):
            console.warn(f"Port {port} is taken by {holder}.", port.remedy())
        if runtime.images is not None:
            console.step(f"# image {launch.image} {_image_step(launch, runtime.images)}")
        workloads = [prepare(replica, runtime, dry=True) for replica in deployment.replicas]
        if store := deployment.store:
            typer.echo(shlex.join([runtime.kind.value, "network", "create", store.network]))
            workloads.insert(0, prepare_store(launch, store, runtime, dry=True))
        for workload in workloads:
            for line in command_line(workload, runtime.kind):
                typer.echo(line)


def _image_step(launch: Launch, images: Images) -> str:
    if launch.build is False:
        return "would be used as it is"
    loops = loops_of_current_image(images, launch.image, recipe(launch, os.environ))
    return "would be built" if must_build(launch, loops) else "is up to date"


def command_line(workload: Workload, kind: RuntimeKind) -> list[str]:
    """Lines of the shell command that runs the workload."""
    variables = [f"{name}={value}" for name, value in workload.environment.items()]
    if kind is RuntimeKind.PROCESS:
        return _continued(
            [["env", *variables[:1]], *([one] for one in variables[1:]), [sys.executable, "-m", "service"]]
        )
    words = [
        [kind.value, "run", "--detach", "--name", workload.name],
        *(["--label", f"{name}={value}"] for name, value in workload.labels.items()),
        *(["--env", one] for one in variables),
        *(["--publish", f"{host_and_port(one.address, one.port)}:{one.port}"] for one in workload.publications),
        *(["--volume", f"{mount.source}:{mount.target}:{_options(mount)}"] for mount in workload.mounts),
        *(["--volume", f"{volume.name}:{volume.target}"] for volume in workload.volumes),
        *(["--network", name] for name in workload.networks),
        *([["--add-host", f"{HOST_NAME}:host-gateway"]] if kind is RuntimeKind.DOCKER else []),
        *([["--restart", workload.restart]] if workload.restart != "no" else []),
        flags(workload),
        [workload.image, *workload.arguments],
    ]
    return _continued(words)


def _options(mount: Mount) -> str:
    return f"{'ro' if mount.read_only else 'rw'},{'Z' if mount.private else 'z'}"


def _continued(groups: list[list[str]]) -> list[str]:
    lines = [shlex.join(group) for group in groups]
    return [
        f"{'  ' if number else ''}{line}{' ' + chr(92) if number < len(lines) - 1 else ''}"
        for number, line in enumerate(lines)
    ]
