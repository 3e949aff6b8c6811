"""What the container is allowed and given, as the runtime says and as it looks from inside."""

from __future__ import annotations

import json
import os
import socket
from typing import Any

import pytest

from tests.e2e.conftest import Running
from tests.e2e.containers import RuntimeCommand

_LOOK = """
import json, os, sys
import service.serving
from service.native.backend import COMPILED
def writes(path):
    try:
        with open(os.path.join(path, "probe"), "w") as file:
            file.write("x")
        os.remove(os.path.join(path, "probe"))
        return True
    except OSError:
        return False
hub, state = os.environ["HF_HOME"], os.environ["STATE_DIR"]
specs = [getattr(module, "__spec__", None) for module in list(sys.modules.values())]
bytecode = {spec.name: spec.cached for spec in specs if spec is not None}
status = dict(line.split(":", 1) for line in open("/proc/1/status"))
print(json.dumps({
    "uid": os.getuid(), "gid": os.getgid(), "groups": os.getgroups(),
    "writes": [path for path in ("/", os.getcwd(), "/etc", "/models", "/tmp", hub, state) if writes(path)],
    "capabilities": [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": status["NoNewPrivs"].strip(),
    "token": open(os.environ["HF_TOKEN_PATH"]).read(),
    "environment": dict(os.environ),
    "compiled": COMPILED,
    "without_bytecode": [name for name, file in bytecode.items() if file and not os.path.exists(file)],
}))
"""


@pytest.fixture(scope="session")
def inside(running: Running) -> dict[str, Any]:
    """What a program of the service's own user sees."""
    return dict(json.loads(running.runtime("exec", running.name, "python", "-c", _LOOK)))


def test_it_runs_as_a_plain_user_without_capabilities(inside: dict[str, Any]) -> None:
    assert (inside["uid"], inside["gid"]) == (10001, 10001)
    assert set(inside["capabilities"]) == {"0000000000000000"}
    assert inside["no_new_privileges"] == "1"


def test_it_can_write_only_its_cache_its_state_and_a_temporary_folder_in_memory(inside: dict[str, Any]) -> None:
    assert inside["writes"] == ["/tmp", "/cache/huggingface", "/state"]


def test_its_inner_loops_are_compiled(inside: dict[str, Any]) -> None:
    assert inside["compiled"]


def test_a_start_compiles_no_python(inside: dict[str, Any]) -> None:
    assert inside["without_bytecode"] == []


def test_the_token_reaches_the_service_and_nobody_who_inspects_it(running: Running, inside: dict[str, Any]) -> None:
    assert inside["token"] == running.TOKEN
    assert running.TOKEN not in str(inside["environment"])
    assert running.TOKEN not in json.dumps(running.runtime.inspect(running.name))
    assert running.TOKEN not in running.runtime("history", "--no-trunc", running.runtime.image)
    assert running.folder.stat().st_mode & 0o777 == 0o700


def test_the_runtime_says_the_same(running: Running) -> None:
    found = running.runtime.inspect(running.name)

    mounts = {mount["Destination"] for mount in found["Mounts"] if mount["Type"] != "tmpfs"}
    assert mounts == {"/cache/huggingface", "/state", "/run/secrets/hf-token"}
    assert found["HostConfig"]["ReadonlyRootfs"]
    assert not found["HostConfig"]["Privileged"]
    assert found["Config"]["User"] == "10001:10001"
    assert any("no-new-privileges" in option for option in found["HostConfig"]["SecurityOpt"])
    assert found["Config"]["Labels"]["io.kvcache.name"] == running.name
    assert _bindings(found) == [("127.0.0.1", str(running.port))]


def _bindings(found: dict[str, Any]) -> list[tuple[str, str]]:
    ports = found["NetworkSettings"]["Ports"].values()
    return [(binding["HostIp"], binding["HostPort"]) for bindings in ports for binding in bindings or ()]


def test_the_port_is_published_on_loopback_alone(running: Running) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        outside = probe.getsockname()[0]
    with socket.socket() as client:
        assert client.connect_ex((outside, running.port)) != 0


def test_the_host_is_reached_under_one_name(running: Running, runtime: RuntimeCommand) -> None:
    with socket.create_server(("0.0.0.0", 0)) as server:
        program = f"import socket; socket.create_connection(('host.containers.internal', {server.getsockname()[1]}), 5)"
        runtime("exec", running.name, "python", "-c", program)


def test_nothing_of_the_shell_reaches_the_service_by_accident(inside: dict[str, Any]) -> None:
    environment: dict[str, str] = inside["environment"]
    assert environment["CONTAINER_ENV"] == "true"
    ours = {"HOSTNAME", "container", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "TERM", "LC_CTYPE"}
    proxies = {name for name in os.environ if "PROXY" in name.upper()}
    settings = environment.keys() - ours - {"PATH", "HOME", "SSL_CERT_FILE"} - proxies
    assert settings <= {
        *(
            "CONTAINER_ENV",
            "INSTANCE_ID",
            "MODEL_NAME",
            "MODELS_DIR",
            "ZMQ_ENDPOINT",
            "ZMQ_TOPIC",
            "PODS",
            "POOL_CONCURRENCY",
            "BLOCK_SIZE",
            "STATE_DIR",
        ),
        *("HTTP_PORT", "HTTP_HOST", "HF_ENDPOINT", "HF_HOME", "HF_TOKEN_PATH"),
        # What Python's official image sets.
        *("GPG_KEY", "LANG", "PYTHON_VERSION", "PYTHON_SHA256", "PYTHON_GET_PIP_URL", "PYTHON_GET_PIP_SHA256"),
    }
