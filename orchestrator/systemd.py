"""Writes a systemd unit that keeps a child process running, as --restart does for containers."""

from __future__ import annotations

import shlex
import sys

from orchestrator.launch import Launch
from service.contract.endpoints import format_endpoints

_POLICIES = {"on-failure": "on-failure", "always": "always", "unless-stopped": "always"}


def systemd_unit(launch: Launch) -> tuple[str, ...]:
    """Lines of a unit that runs `kvcache up` with this launch's main options."""
    options = {
        "--name": launch.name,
        "--port": str(launch.port),
        "--publish-address": launch.publish_address,
        **({} if launch.model_is_of_pods else {"--model": launch.model}),
        "--zmq-topic": launch.zmq_topic,
    }
    command = [sys.executable, "-m", "orchestrator", "up", "--runtime", "process"]
    command += [word for pair in options.items() for word in pair]
    folders = (
        (launch.models_dir, "--models-dir"),
        (launch.hf_cache, "--hf-cache"),
        (launch.state_dir, "--state-dir"),
    )
    for folder, option in folders:
        command += [option, str(folder.resolve())] if folder else []
    command += [word for option, file in launch.tls_files for word in (option, str(file.resolve()))]
    command += [word for pod in launch.pod_entries for word in ("--pod", str(pod))]
    command += [word for source in launch.sources for word in ("--discovery", str(source))]
    command += ["--zmq-endpoint", format_endpoints(launch.endpoints)] if launch.endpoints else []
    command += [word for name, value in launch.settings.items() for word in ("--env", f"{name}={value}")]
    return (
        "[Unit]",
        f"Description=kvcache {launch.name}",
        "After=network-online.target",
        "[Service]",
        f"ExecStart={shlex.join(command)}",
        f"Restart={_POLICIES[launch.restart]}",
        "[Install]",
        "WantedBy=default.target",
    )
