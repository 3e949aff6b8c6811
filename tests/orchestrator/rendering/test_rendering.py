"""`kvcache render` with its options."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.orchestrator.invoked import Invoked, Invoker

SERVICE = "\n\n[Service]\nRestart=on-failure\nTimeoutStartSec=60\n"
NAMED = ("--zmq-endpoint", "tcp://vllm-0.vllm:5557")


def rendered(invoker: Invoker, *arguments: str, **environment: str) -> Invoked:
    return invoker.run("render", *arguments, environment=environment)


def test_secrets_are_asked_for_and_not_printed(invoker: Invoker) -> None:
    secret = (
        "--env",
        "API_KEYS=a:admin:hunter2-hunter2-hunter2",
        "--env",
        "SHARED_STATE=valkey://:hunter2@valkey:6379",
    )
    for form in ("compose", "quadlet", "kubernetes"):
        finished = rendered(invoker, form, *NAMED, *secret, HF_TOKEN="hunter2")  # noqa: S106
        assert finished.code == 0, finished.output
        assert "hunter2" not in finished.output
        assert "API_KEYS" in finished.output
        assert "SHARED_STATE" in finished.output


def test_addresses_and_files_of_this_machine_are_those_that_a_container_sees(invoker: Invoker, tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    for name in ("tls.crt", "tls.key"):
        (folder / name).write_text("…")
    certificate = ("--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key"))
    finished = rendered(invoker, "compose", "--pod", "http://localhost:8000,name=a", *certificate)
    (service,) = yaml.safe_load(finished.output)["services"].values()
    assert service["environment"]["PODS"] == "http://host.containers.internal:8000,name=a"
    assert "host.containers.internal:host-gateway" in service["extra_hosts"]
    assert service["environment"]["TLS_CERT"] == "/run/files/tls-cert/tls.crt"
    assert f"{folder}:/run/files/tls-cert:ro,z" in service["volumes"]


def test_what_runs_elsewhere_has_no_mark_of_this_launch(invoker: Invoker) -> None:
    for form in ("compose", "quadlet", "kubernetes"):
        output = rendered(invoker, form, *NAMED).output
        assert "INSTANCE_ID" not in output
        assert "io.kvcache" not in output


def test_a_folder_of_this_machine_is_not_made(invoker: Invoker, tmp_path: Path) -> None:
    finished = rendered(invoker, "compose", "--state-dir", str(tmp_path / "state-dir"))
    assert f"{tmp_path}/state-dir:/state:rw,z" in finished.output
    assert not (tmp_path / "state-dir").exists()


@pytest.mark.parametrize(
    ("arguments", "what", "remedy"),
    [
        ((), "reaches one replica only", "kubernetes:llm/app=vllm"),
        (("--zmq-endpoint", "tcp://localhost:5557"), "loopback", "Name the engines"),
        (("--discovery", "kubernetes:llm/app=vllm"), "needs the namespace of the service", "--namespace llm"),
        ((*NAMED, "--name", "Router"), "'Router' is not a name for Kubernetes", "small letters"),
        ((*NAMED, "--models-dir", "."), "--models-dir: a cluster does not have", "PersistentVolumeClaim"),
        ((*NAMED, "--network", "a"), "--network: a cluster does not have", "Leave it out"),
    ],
)
def test_what_a_cluster_lacks_is_refused(invoker: Invoker, arguments: tuple[str, ...], what: str, remedy: str) -> None:
    finished = rendered(invoker, "kubernetes", *(arguments or ("--zmq-endpoint", "tcp://*:5557")))
    assert finished.code == 2
    assert what in finished.output
    assert remedy in finished.output


def test_the_namespace_is_of_kubernetes_only(invoker: Invoker) -> None:
    finished = rendered(invoker, "compose", "--namespace", "llm")
    assert finished.code == 2
    assert "--namespace: compose has none." in finished.output
    everywhere = rendered(invoker, "kubernetes", *NAMED, "--namespace", "llm").output
    assert {one["metadata"]["namespace"] for one in yaml.safe_load_all(everywhere)} == {"llm"}


@pytest.mark.parametrize(
    ("form", "remedy"),
    [
        ("compose", "deploy/compose.replicas.yaml"),
        ("quadlet", "deploy/compose.replicas.yaml"),
        ("kubernetes", "the Helm chart has `replicas:`"),
    ],
)
def test_several_replicas_of_the_file_of_options_are_refused_with_what_has_them(
    invoker: Invoker, tmp_path: Path, form: str, remedy: str
) -> None:
    file = tmp_path / "kvcache.toml"
    file.write_text("replicas = 3\n")
    finished = invoker.run("--config", str(file), "render", form, *NAMED)
    assert finished.code == 2
    assert f"--replicas: 3 are not rendered for {form}." in finished.output
    assert remedy in finished.output
    assert invoker.run("--config", str(file), "render", form, *NAMED, "--replicas", "1").code == 0


def test_another_name_is_that_of_all_objects_and_of_no_setting(invoker: Invoker) -> None:
    prefix = ("--env", "SHARED_STATE_PREFIX=kvcache-b")
    output = rendered(invoker, "kubernetes", *NAMED, "--name", "router", *prefix).output
    for one in yaml.safe_load_all(output):
        assert one["metadata"]["name"].startswith("router")
        if one["kind"] == "ConfigMap":
            assert one["data"]["SHARED_STATE_PREFIX"] == "kvcache-b"
    assert "name: kvcache" not in output


def test_engines_elsewhere_are_let_through_the_policy(invoker: Invoker) -> None:
    output = rendered(invoker, "kubernetes", "--pod", "http://10.0.0.7:9000").output
    (policy,) = (one for one in yaml.safe_load_all(output) if one["kind"] == "NetworkPolicy")
    _, engines, _, _ = policy["spec"]["egress"]
    assert engines == {"ports": [{"port": 5557}, {"port": 5558}, {"port": 9000}]}


def test_servers_that_settings_name_are_let_through_the_policy(invoker: Invoker) -> None:
    named = (
        "SHARED_STATE=valkey://:secret@valkey:6380",
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://collector.tracing.svc:4318",
        "BOOTSTRAP_FROM=http://kvcache:8081",
    )
    given = [word for setting in named for word in ("--env", setting)]
    output = rendered(invoker, "kubernetes", *NAMED, *given, "--port", "8090").output
    (policy,) = (one for one in yaml.safe_load_all(output) if one["kind"] == "NetworkPolicy")
    _, _, near, elsewhere, replicas, _ = policy["spec"]["egress"]
    assert near == {"to": [{"podSelector": {}}], "ports": [{"port": 6380}, {"port": 8081}]}
    assert elsewhere == {"ports": [{"port": 4318}]}
    assert replicas["ports"] == [{"port": 8090}]


@pytest.mark.parametrize(
    ("drain", "compose", "quadlet", "kubernetes"),
    [
        ("500ms", "10s", f"StopTimeout=10{SERVICE}\n", 75),
        ("60s", "70s", f"StopTimeout=70{SERVICE}\n", 75),
        ("2m", "130s", f"StopTimeout=130{SERVICE}TimeoutStopSec=150\n\n", 135),
    ],
)
def test_a_service_is_not_killed_while_it_answers_what_is_in_flight(
    invoker: Invoker, drain: str, compose: str, quadlet: str, kubernetes: int
) -> None:
    setting = ("--env", f"DRAIN_TIMEOUT={drain}")
    (service,) = yaml.safe_load(rendered(invoker, "compose", *setting).output)["services"].values()
    assert service["stop_grace_period"] == compose
    assert quadlet in rendered(invoker, "quadlet", *setting).output
    manifests = yaml.safe_load_all(rendered(invoker, "kubernetes", *NAMED, *setting).output)
    (deployment,) = (one for one in manifests if one["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == kubernetes
