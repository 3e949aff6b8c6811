from __future__ import annotations

import configparser
import os
import shlex
import subprocess

from tests.conftest import ROOT
from tests.deploy.manifests import settings

FOLDER = ROOT / "deploy" / "quadlet"


def container() -> list[tuple[str, str]]:
    """Gives the lines of [Container] as pairs; Environment= stands more than once."""
    lines = (FOLDER / "kvcache.container").read_text(encoding="utf-8").split("[Container]\n")[1].split("\n[")[0]
    pairs = (line.partition("=") for line in lines.splitlines() if line and not line.startswith("#"))
    return [(name, value) for name, _, value in pairs]


def test_podman_makes_a_service_with_the_privileges_that_kvcache_up_gives(quadlet: str) -> None:
    made = subprocess.run(
        [quadlet, "-dryrun", "-user"],
        env={**os.environ, "QUADLET_UNIT_DIRS": str(FOLDER)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(made.split("---kvcache.service---\n")[1].split("\n---")[0])
    command = shlex.split(unit["Service"]["ExecStart"])
    assert {"--read-only", "--read-only-tmpfs=false", "--security-opt=no-new-privileges"} <= set(command)
    assert command[command.index("--cap-drop") + 1].lower() == "all"
    assert command[command.index("--pids-limit") + 1] == "512"
    assert command[command.index("--health-cmd") + 1] == "python -m service.healthcheck"
    assert command[-1] == "localhost/kv-cache-unified-online:latest"


def test_the_service_understands_its_settings() -> None:
    settings(dict(value.split("=", 1) for name, value in container() if name == "Environment"))


def test_ports_are_published_on_this_machine_only() -> None:
    published = [value for name, value in container() if name == "PublishPort"]
    assert published
    assert all(value.startswith("127.0.0.1:") for value in published)
