"""The output of `kvcache render` and the files of deploy/ agree, and are accepted where they are to run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from orchestrator.launch import Launch, parse_memory
from orchestrator.options import LaunchOptions
from orchestrator.rendering.compose import compose
from orchestrator.rendering.kubernetes import kubernetes as manifests_of
from orchestrator.rendering.quadlet import quadlet as unit_of
from service.contract.settings import Settings
from tests.conftest import ROOT
from tests.deploy.manifests import Manifest, assert_hardened, assert_selects_the_pods, assert_valid, of_kind, parsed
from tests.deploy.units import command_of

DEPLOY = ROOT / "deploy"
BOUND = "tcp://*:5557"
NAMED = "tcp://vllm-0.vllm:5557,replay=tcp://vllm-0.vllm:5558"
_VARIABLE = re.compile(r"\$\{\w+:-([^}]*)\}")


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder, open to others, with a certificate, its key and keys of clients."""
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("tls.crt", "tls.key", "keys"):
        (folder / name).write_text("…", encoding="utf-8")
    return folder


@pytest.fixture
def everything(files: Path) -> LaunchOptions:
    return LaunchOptions(
        name="router",
        port=443,
        publish_address="0.0.0.0",
        tls_cert=files / "tls.crt",
        tls_key=files / "tls.key",
        model="org/na$me",
        pod=["http://10.0.0.7:9000,name=a", "http://vllm-0.vllm:8000"],
        discovery=["kubernetes:llm/app=vllm,tier!=cpu", "dns:vllm.llm.svc:8001"],
        env=[f"API_KEYS_FILE={files / 'keys'}", "SHARED_STATE=valkey://:se%cret@valkey:6379", "METRICS_PORT=9464"],
        cpus=1.5,
        memory="2g",
    )


def _resolved(node: Any) -> Any:
    """A compose file with the defaults of its variables."""
    if isinstance(node, dict):
        return {key: _resolved(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_resolved(one) for one in node]
    return _VARIABLE.sub(r"\1", node) if isinstance(node, str) else node


def _settings(environment: dict[str, str]) -> Settings:
    return Settings.from_environment({name: value for name, value in environment.items() if value != ""})


def test_the_compose_file_of_deploy_is_what_the_command_prints() -> None:
    launch = LaunchOptions(zmq_endpoint=BOUND).launch()
    (rendered,) = yaml.safe_load(compose(launch))["services"].values()
    written = _resolved(yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8")))["services"]["kvcache"]
    same = ("restart", "read_only", "cap_drop", "security_opt", "pids_limit", "stop_grace_period", "healthcheck")
    assert {name: rendered[name] for name in same} == {name: written[name] for name in same}
    assert rendered["ports"] == written["ports"]
    assert set(rendered["extra_hosts"]) <= set(written["extra_hosts"])
    assert rendered["mem_limit"] == parse_memory(written["mem_limit"])
    assert rendered["tmpfs"] == [written["tmpfs"][0].replace("64m", str(64 << 20))]
    assert {volume.split(":")[1] for volume in rendered["volumes"]} <= {
        volume.split(":")[1] for volume in written["volumes"]
    }
    assert set(rendered) <= set(written)
    assert _settings({"LOG_FORMAT": "human", **rendered["environment"]}) == _settings(written["environment"])


def test_the_unit_of_deploy_is_what_the_command_prints() -> None:
    launch = LaunchOptions(zmq_endpoint=BOUND, env=["LOG_FORMAT=json"]).launch(token=None)
    written = (DEPLOY / "quadlet" / "kvcache.container").read_text(encoding="utf-8")
    assert unit_of(launch) == written, "run scripts/render_deploy"


def test_the_manifests_of_deploy_are_what_the_command_prints(kubectl: str) -> None:
    built = subprocess.run(
        [kubectl, "kustomize", str(DEPLOY / "kubernetes")], capture_output=True, text=True, check=True
    ).stdout
    made = next(name for name in re.findall(r"kvcache-settings-\w+", built))
    written = parsed([built.replace(made, "kvcache-settings").replace(f"{Launch().image}:latest", Launch().image)])
    rendered = parsed([manifests_of(LaunchOptions(zmq_endpoint=NAMED, env=["LOG_FORMAT=json"]).launch())])
    settings = of_kind(rendered, "ConfigMap")
    del settings["metadata"]["labels"]
    assert {one["kind"]: one for one in rendered} == {one["kind"]: one for one in written}


def test_compose_accepts_every_option(everything: LaunchOptions, tmp_path: Path) -> None:
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is missing")
    text = compose(everything.launch())
    assert "se%cret" not in text
    (tmp_path / "compose.yaml").write_text(text, encoding="utf-8")
    command = [program, f"--file={tmp_path / 'compose.yaml'}", "config"]
    refused = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
    assert "set SHARED_STATE in the environment or in .env" in refused.stderr
    made = subprocess.run(command, env={"SHARED_STATE": "valkey://a"}, capture_output=True, text=True, check=True)
    (service,) = yaml.safe_load(made.stdout)["services"].values()
    assert service["environment"]["MODEL_NAME"] in {"org/na$me", "org/na$$me"}  # by version
    assert service["environment"]["SHARED_STATE"] == "valkey://a"


def test_podman_accepts_every_option(quadlet: str, everything: LaunchOptions, tmp_path: Path) -> None:
    units = tmp_path / "units"
    units.mkdir()
    (units / "router.container").write_text(unit_of(everything.launch()), encoding="utf-8")
    command = command_of(quadlet, units, "router")
    assert "SHARED_STATE" not in " ".join(command).replace("target=SHARED_STATE", "")
    assert command[command.index("--secret") + 1] == "router-shared-state,type=env,target=SHARED_STATE"
    assert command[command.index("--pids-limit") + 1] == "512"
    assert {"MODEL_NAME=org/na$$me", "--cpus=1.5"} <= set(command)


def test_kubernetes_accepts_every_option(kubernetes: ModuleType, everything: LaunchOptions) -> None:
    text = manifests_of(everything.launch(), "llm")
    assert "se%cret" not in text
    manifests: list[Manifest] = parsed([text])
    assert_valid(kubernetes, manifests)
    assert_selects_the_pods(manifests)
    assert_hardened(manifests)
    assert {one["metadata"]["namespace"] for one in manifests} == {"llm"}
    assert "create secret generic router-secrets --from-literal=SHARED_STATE=…" in text
    assert "create secret generic router-tls-cert --from-file=" in text
    pod = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    data = of_kind(manifests, "ConfigMap")["data"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    for variable in ("TLS_CERT", "TLS_KEY", "API_KEYS_FILE"):
        assert str(Path(data[variable]).parent) in mounted
    assert {probe["httpGet"]["scheme"] for probe in (container["readinessProbe"], container["livenessProbe"])} == {
        "HTTPS"
    }
    assert container["resources"]["limits"] == {"memory": str(2 << 30), "cpu": "1.5"}
    assert [port["port"] for port in of_kind(manifests, "Service")["spec"]["ports"]] == [443, 9464]
    egress = of_kind(manifests, "NetworkPolicy")["spec"]["egress"]
    assert [port["port"] for port in egress[1]["ports"]] == [5557, 5558, 8000, 8001, 9000]
    assert "to" not in egress[1]
