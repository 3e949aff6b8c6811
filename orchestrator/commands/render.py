"""`kvcache render`: prints what `up` would run, for the place where it is to run."""

from __future__ import annotations

import typer

from orchestrator.errors import UsageError
from orchestrator.launch import Launch
from orchestrator.rendering.compose import compose
from orchestrator.rendering.forms import Form
from orchestrator.rendering.kubernetes import kubernetes
from orchestrator.rendering.quadlet import quadlet

_SEVERAL = {
    Form.COMPOSE: "Use deploy/compose.replicas.yaml, or --replicas 1.",
    Form.QUADLET: "Use --replicas 1; deploy/compose.replicas.yaml has several for Compose.",
    Form.KUBERNETES: "Use --replicas 1, whose Deployment has two pods; the Helm chart has `replicas:`.",
}


def render(form: Form, launch: Launch, namespace: str | None = None) -> None:
    """Prints a launch in this form. Nothing is started, and no runtime is asked. Raises Problem."""
    if namespace is not None and form is not Form.KUBERNETES:
        raise UsageError(f"--namespace: {form} has none.", "Leave it out.")
    if launch.replicas > 1:
        raise UsageError(f"--replicas: {launch.replicas} are not rendered for {form}.", _SEVERAL[form])
    if not launch.port:
        raise UsageError("--port: 0 is any free port, and files have to name one.", "Name a port.")
    if launch.follows_containers:
        raise UsageError(
            "--discovery containers: only `kvcache up` follows them, from the host.",
            "Name the engines with --pod, or another source.",
        )
    if form is Form.KUBERNETES:
        text = kubernetes(launch, namespace)
    else:
        text = compose(launch) if form is Form.COMPOSE else quadlet(launch)
    typer.echo(text, nl=False)
