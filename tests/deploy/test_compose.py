from __future__ import annotations

import shutil
import subprocess
from typing import Any

import pytest
import yaml

from orchestrator.launch import Launch
from orchestrator.runtimes.base import Workload
from orchestrator.runtimes.hardening import docker_restrictions
from tests.conftest import ROOT
from tests.deploy.manifests import settings

FOLDER = ROOT / "deploy"


def compose(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))
    return loaded


def test_the_services_have_the_privileges_that_kvcache_up_gives() -> None:
    wanted = docker_restrictions(Workload(name="kvcache", labels={}, environment={}, publications=()))
    service = compose("compose.yaml")["services"]["kvcache"]
    engines = compose("compose.demo.yaml")["services"]["engines"]
    for container in (service, engines):
        assert container["read_only"] is wanted["read_only"]
        assert container["cap_drop"] == wanted["cap_drop"]
        assert container["security_opt"] == wanted["security_opt"]
        (tmp,) = container["tmpfs"]
        assert tmp.startswith("/tmp:")
    assert service["pids_limit"] == wanted["pids_limit"]
    assert service["healthcheck"]["test"] == wanted["healthcheck"]["Test"]


def test_replicas_differ_only_in_their_ports_and_the_volume_of_their_snapshots() -> None:
    first = compose("compose.yaml")["services"]["kvcache"]
    others = compose("compose.replicas.yaml")["services"]
    added = others.pop("kvcache")
    first |= {**added, "environment": {**first["environment"], **added["environment"]}}
    for number in (2, 3):
        replica = others[f"kvcache-{number}"]
        assert replica.pop("networks")["default"]["aliases"] == ["kvcache"]
        (port,) = replica.pop("ports")
        assert port == f"${{KVCACHE_PUBLISH_ADDRESS:-127.0.0.1}}:${{HTTP_PORT_{number}:-{8079 + number}}}:8080"
        assert replica["volumes"].pop() == f"state-{number}:/state"
        same = {name: first[name] for name in replica if name not in {"environment", "volumes"}}
        assert {name: value for name, value in replica.items() if name not in {"environment", "volumes"}} == same
        assert replica["volumes"] == [volume for volume in first["volumes"] if volume != "state:/state"]
        # The same bound address at each: only so does a replica follow engines that connect to another one.
        own = {"METRICS_PORT": "${METRICS_PORT:-9464}"}
        assert replica["environment"] == {**first["environment"], **own}
        assert set(first) - set(replica) == {"build", "ports"}


def test_valkey_is_reached_by_replicas_only_and_keeps_nothing() -> None:
    valkey = compose("compose.replicas.yaml")["services"]["valkey"]
    assert "ports" not in valkey
    assert "volumes" not in valkey
    assert (valkey["read_only"], valkey["cap_drop"], valkey["security_opt"]) == (True, ["ALL"], ["no-new-privileges"])
    shared = compose("compose.replicas.yaml")["services"]["kvcache"]["environment"]["SHARED_STATE"]
    assert settings({"ZMQ_ENDPOINT": "", "SHARED_STATE": shared}).shared_state is not None


def test_replicas_start_from_the_snapshot_in_their_store() -> None:
    services = compose("compose.replicas.yaml")["services"]
    named = [services[name]["environment"]["BOOTSTRAP_FROM"] for name in ("kvcache", "kvcache-2", "kvcache-3")]
    assert named == ["${BOOTSTRAP_FROM:-shared}"] * 3


@pytest.mark.parametrize("others", [(), ("demo",), ("prometheus",), ("replicas",), ("replicas", "prometheus")])
def test_compose_understands_the_files_together(others: tuple[str, ...]) -> None:
    command = shutil.which("docker-compose")
    if command is None:
        pytest.skip("docker-compose is missing")
    files = [f"--file={FOLDER / name}" for name in ("compose.yaml", *(f"compose.{other}.yaml" for other in others))]
    made = subprocess.run([command, *files, "config", "--quiet"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def test_ports_are_published_on_this_machine_only() -> None:
    for name in ("compose.yaml", "compose.prometheus.yaml", "compose.replicas.yaml"):
        for service in [one for one in compose(name)["services"].values() if "ports" in one]:
            assert all(port.startswith("${KVCACHE_PUBLISH_ADDRESS:-127.0.0.1}:") for port in service["ports"])


def test_the_service_understands_its_settings_in_the_demo() -> None:
    demo = compose("compose.demo.yaml")["services"]
    environment = {name: str(value) for name, value in demo["kvcache"]["environment"].items()}
    assert settings(environment).model_name == "builtin/demo"
    assert settings(environment).zmq_endpoint == ()


def test_certificates_and_keys_are_files_of_one_folder_that_is_not_needed() -> None:
    service = compose("compose.yaml")["services"]["kvcache"]
    assert "${KVCACHE_SECRETS_DIR:-secrets}:/secrets:ro" in service["volumes"]
    assert "secrets" in compose("compose.yaml")["volumes"]
    for name in ("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "API_KEYS_FILE", "METRICS_PORT"):
        assert service["environment"][name] == f"${{{name}:-}}"
    unset = dict.fromkeys(("TLS_CERT", "TLS_KEY", "TLS_CLIENT_CA", "API_KEYS_FILE", "METRICS_PORT"), "")
    found = settings({"ZMQ_ENDPOINT": "tcp://*:5557", **unset})
    assert (found.tls_cert, found.api_keys_file, found.metrics_port) == (None, None, None)


def test_prometheus_reads_the_port_of_metrics_of_each_replica() -> None:
    port = compose("compose.prometheus.yaml")["services"]["kvcache"]["environment"]["METRICS_PORT"]
    (scraped,) = compose("prometheus.yaml")["scrape_configs"]
    (found,) = scraped["dns_sd_configs"]
    assert (found["names"], found["type"], found["port"]) == (["kvcache"], "A", port)


def test_prometheus_and_grafana_are_given_the_files_that_they_name() -> None:
    services = compose("compose.prometheus.yaml")["services"]
    targets = {}
    for service in services.values():
        for source, target, _ in (volume.split(":") for volume in service.get("volumes", ()) if volume[0] == "."):
            assert (FOLDER / source).exists()
            targets[target] = FOLDER / source
    assert compose("prometheus.yaml")["rule_files"] == ["/etc/prometheus/alerts.yaml"]
    assert targets["/etc/prometheus/alerts.yaml"] == FOLDER / "grafana" / "alerts.yaml"
    (provider,) = compose("grafana/provisioning/dashboards/kvcache.yaml")["providers"]
    assert f"{provider['options']['path']}/kvcache.json" in targets
    (source,) = compose("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"


def test_the_image_is_the_one_of_kvcache_up() -> None:
    image = compose("compose.yaml")["services"]["kvcache"]["image"]
    assert Launch().image in image
