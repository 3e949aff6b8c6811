from __future__ import annotations

from tests.conftest import ROOT
from tests.deploy.manifests import settings
from tests.deploy.units import command_of

FOLDER = ROOT / "deploy" / "quadlet"


def container() -> list[tuple[str, str]]:
    """Gives the lines of [Container] as pairs; Environment= stands more than once."""
    lines = (FOLDER / "kvcache.container").read_text(encoding="utf-8").split("[Container]\n")[1].split("\n[")[0]
    pairs = (line.partition("=") for line in lines.splitlines() if line and not line.startswith("#"))
    return [(name, value) for name, _, value in pairs]


def test_podman_makes_a_service_with_the_privileges_that_kvcache_up_gives(quadlet: str) -> None:
    command = command_of(quadlet, FOLDER, "kvcache")
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
