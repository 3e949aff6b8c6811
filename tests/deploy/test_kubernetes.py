from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.manifests import (
    Manifest,
    assert_hardened,
    assert_selects_the_pods,
    assert_stops_after_its_last_request,
    assert_valid,
    of_kind,
    settings,
)

FOLDER = ROOT / "deploy" / "kubernetes"


@pytest.fixture(scope="module")
def manifests(kubectl: str) -> list[Manifest]:
    command = [kubectl, "kustomize", str(FOLDER)]
    built = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return list(yaml.safe_load_all(built))


def test_kubernetes_accepts_every_manifest(kubernetes: ModuleType, manifests: list[Manifest]) -> None:
    assert_valid(kubernetes, manifests)


def test_every_manifest_of_the_folder_is_applied(manifests: list[Manifest]) -> None:
    files = {path.stem for path in FOLDER.glob("*.yaml")} - {"kustomization"}
    assert {manifest["kind"].lower() for manifest in manifests} - {"configmap"} == files


def test_selectors_match_the_pods(manifests: list[Manifest]) -> None:
    assert_selects_the_pods(manifests)


def test_the_container_has_the_privileges_that_kvcache_up_gives(manifests: list[Manifest]) -> None:
    assert_hardened(manifests)


def test_pods_stop_after_their_last_request(manifests: list[Manifest]) -> None:
    assert_stops_after_its_last_request(manifests)


def test_certificates_keys_and_metrics_are_components(kubectl: str, kubernetes: ModuleType, tmp_path: Path) -> None:
    base = os.path.relpath(FOLDER, tmp_path.resolve())
    overlay = {"resources": [base], "components": [f"{base}/{name}" for name in ("tls", "api-keys", "monitoring")]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    command = [kubectl, "kustomize", str(tmp_path)]
    built = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert_valid(kubernetes, built)
    assert_hardened(built)
    pod = of_kind(built, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {one["name"]: one["value"] for one in container["env"] if "value" in one}
    found = settings({**of_kind(built, "ConfigMap")["data"], **environment})
    secrets = {volume["name"]: volume["secret"] for volume in pod["volumes"] if "secret" in volume}
    assert {secret["defaultMode"] for secret in secrets.values()} == {0o440}
    mounted = {
        one["mountPath"]: secrets[one["name"]]["secretName"]
        for one in container["volumeMounts"]
        if one["name"] in secrets
    }
    files = (found.tls_cert, found.tls_key, found.api_keys_file)
    assert [(mounted[str(file.parent)], file.name) for file in files if file] == [
        ("kvcache-tls", "tls.crt"),
        ("kvcache-tls", "tls.key"),
        ("kvcache-api-keys", "keys"),
    ]
    assert found.metrics_port == 9464
    (scraped,) = of_kind(built, "ServiceMonitor")["spec"]["endpoints"]
    ports = {port["name"]: port["port"] for port in of_kind(built, "Service")["spec"]["ports"]}
    assert (ports[scraped["port"]], scraped["honorLabels"]) == (9464, True)
    assert {probe["httpGet"]["scheme"] for probe in (container["readinessProbe"], container["livenessProbe"])} == {
        "HTTPS"
    }


def test_discovery_is_a_component_that_gives_the_account_a_role(
    kubectl: str, kubernetes: ModuleType, tmp_path: Path
) -> None:
    base = os.path.relpath(FOLDER, tmp_path.resolve())
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "llm",
        "resources": [base],
        "components": [f"{base}/discovery"],
        "configMapGenerator": [
            {
                "name": "kvcache-settings",
                "behavior": "merge",
                "literals": ["ZMQ_ENDPOINT=", "DISCOVERY=kubernetes:llm/app=vllm"],
            }
        ],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    command = [kubectl, "kustomize", str(tmp_path)]
    built = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert_valid(kubernetes, built)
    assert_hardened(built)
    account, binding = of_kind(built, "ServiceAccount"), of_kind(built, "RoleBinding")
    subject = {"kind": "ServiceAccount", "name": account["metadata"]["name"], "namespace": "llm"}
    assert (binding["subjects"], binding["roleRef"]["name"]) == ([subject], of_kind(built, "Role")["metadata"]["name"])
    (source,) = settings(of_kind(built, "ConfigMap")["data"]).discovery
    assert str(source) == "kubernetes:llm/app=vllm"


def test_the_service_understands_its_settings(manifests: list[Manifest]) -> None:
    settings(of_kind(manifests, "ConfigMap")["data"])
