from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
import yaml

from service.contract.settings import Settings
from tests.conftest import ROOT
from tests.deploy.manifests import (
    Manifest,
    assert_hardened,
    assert_selects_the_pods,
    assert_stops_after_its_last_request,
    assert_valid,
    of_kind,
    parsed,
    settings,
)

CHART = ROOT / "deploy" / "helm" / "kvcache"
ENGINES = [
    {"address": "tcp://vllm-0.vllm:5557", "replay": "tcp://vllm-0.vllm:5558"},
    {"address": "tcp://other:5557", "pod": "10.0.0.8:8000", "model": "org/name"},
]
EVERYTHING: dict[str, Any] = {
    "engines": ENGINES,
    "settings": {"INDEX_MAX_BLOCKS": 20_000_000, "BLOCK_SIZE": 16, "TIER_WEIGHTS": "gpu=1.0,cpu=0.5,storage=0.1"},
    "image": {"digest": f"sha256:{'0' * 64}", "pullSecrets": ["registry"]},
    "hubToken": {"secretName": "hub"},
    "models": {"claimName": "models"},
    "tls": {"secretName": "certificate", "clientCaSecretName": "authorities"},
    "apiKeys": {"secretName": "keys", "key": "api-keys"},
    "pods": [{"url": "https://vllm-0.vllm:8000", "name": "a", "key": "vllm"}, {"url": "http://10.0.0.8:8000"}],
    "engineKeys": {"secretName": "engines"},
    "engineTls": {"caSecretName": "engines-ca"},
    "sharedState": {"secretName": "valkey"},
    "metricsPort": 9464,
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}},
    "service": {"annotations": {"a": "b"}},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"c": "d"},
    "nodeSelector": {"e": "f"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
}

STORE = {"SHARED_STATE": "valkey://valkey"}
"""What is in the Secret of EVERYTHING."""


def render(helm: ModuleType, values: dict[str, Any] | None = None) -> list[Manifest]:
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="kvcache", namespace="llm")
    return parsed(text for path, text in files.items() if not path.endswith("NOTES.txt"))


@pytest.mark.parametrize("values", [{}, EVERYTHING], ids=["defaults", "everything"])
def test_kubernetes_accepts_what_the_chart_renders(
    helm: ModuleType, kubernetes: ModuleType, values: dict[str, Any]
) -> None:
    manifests = render(helm, values)
    assert_valid(kubernetes, manifests)
    assert_selects_the_pods(manifests)
    assert_hardened(manifests)


def test_pods_stop_after_their_last_request(helm: ModuleType) -> None:
    assert_stops_after_its_last_request(render(helm))


def test_helm_finds_no_error_in_the_chart(helm: ModuleType) -> None:
    assert helm.lint(str(CHART), {"engines": ENGINES}, strict=True)["errors"] == []


def test_engines_and_settings_reach_the_service(helm: ModuleType) -> None:
    found = settings({**STORE, **of_kind(render(helm, EVERYTHING), "ConfigMap")["data"]})
    first, second = found.zmq_endpoint
    assert (first.address, first.replay) == ("tcp://vllm-0.vllm:5557", "tcp://vllm-0.vllm:5558")
    assert (second.address, second.pod, second.model) == ("tcp://other:5557", "10.0.0.8:8000", "org/name")
    assert (found.index_max_blocks, found.block_size) == (20_000_000, 16)


def test_discovery_gives_the_account_a_role_in_each_namespace(helm: ModuleType, kubernetes: ModuleType) -> None:
    sources = ["kubernetes:a/app=vllm,tier!=cpu", "kubernetes:a/app=x", "kubernetes:b/app=vllm", "dns:c.d:8000"]
    manifests = render(helm, {"discovery": [*sources, "kubernetes:e/app=vllm?kubeconfig=/f"]})
    assert_valid(kubernetes, manifests)
    assert_hardened(manifests)
    found = Settings.from_environment(of_kind(manifests, "ConfigMap")["data"])
    assert [str(one) for one in found.discovery[:-1]] == sources
    assert found.zmq_endpoint == ()
    for kind in ("Role", "RoleBinding"):
        namespaces = [one["metadata"]["namespace"] for one in manifests if one["kind"] == kind]
        assert namespaces == ["a", "b"]
    subjects = [one["subjects"] for one in manifests if one["kind"] == "RoleBinding"]
    account = of_kind(manifests, "ServiceAccount")["metadata"]["name"]
    assert subjects == [[{"kind": "ServiceAccount", "name": account, "namespace": "llm"}]] * 2
    rules = {
        (resource, verb)
        for one in manifests
        if one["kind"] == "Role"
        for rule in one["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert rules == {(one, verb) for one in ("pods", "endpointslices") for verb in ("list", "watch")}
    names = {manifest["kind"] for manifest in render(helm, {"discovery": ["dns:c.d:8000"]})}
    assert not names & {"Role", "RoleBinding"}


def test_certificates_keys_and_the_port_of_metrics_reach_the_service(helm: ModuleType) -> None:
    manifests = render(helm, EVERYTHING)
    pod = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    environment = {variable["name"]: variable["value"] for variable in container["env"] if "value" in variable}
    found = settings({**STORE, **of_kind(manifests, "ConfigMap")["data"], **environment})
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in pod["volumes"] if "secret" in volume}
    mounted = {mount["mountPath"]: secrets.get(mount["name"]) for mount in container["volumeMounts"]}
    files = (found.tls_cert, found.tls_key, found.tls_client_ca, found.api_keys_file)
    assert [(mounted[str(file.parent)], file.name) for file in files if file] == [
        ("certificate", "tls.crt"),
        ("certificate", "tls.key"),
        ("authorities", "ca.crt"),
        ("keys", "api-keys"),
    ]
    assert (mounted["/etc/kvcache/engine-keys"], mounted["/etc/kvcache/engine-ca"]) == ("engines", "engines-ca")
    assert environment["SSL_CERT_FILE"] == "/etc/kvcache/engine-ca/ca.crt"
    assert [(pod.url, pod.name, pod.key_file) for pod in found.pods] == [
        ("https://vllm-0.vllm:8000", "a", "/etc/kvcache/engine-keys/vllm"),
        ("http://10.0.0.8:8000", "10.0.0.8:8000", None),
    ]
    assert {probe["httpGet"]["scheme"] for probe in (container["readinessProbe"], container["livenessProbe"])} == {
        "HTTPS"
    }
    assert found.metrics_port == 9464
    assert {port["name"]: port["port"] for port in of_kind(manifests, "Service")["spec"]["ports"]} == {
        "http": 8080,
        "metrics": 9464,
    }
    (scraped,) = of_kind(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert (scraped["port"], scraped["honorLabels"]) == ("metrics", True)


def test_the_rules_and_the_dashboard_are_those_of_the_folder_for_grafana(helm: ModuleType) -> None:
    manifests = render(helm, {**EVERYTHING, "grafanaDashboard": {"enabled": True}})
    rules = yaml.safe_load((ROOT / "deploy" / "grafana" / "alerts.yaml").read_text(encoding="utf-8"))
    assert of_kind(manifests, "PrometheusRule")["spec"] == rules
    (dashboard,) = (one for one in manifests if one["metadata"]["name"] == "kvcache-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    text = (ROOT / "deploy" / "grafana" / "dashboard.json").read_text(encoding="utf-8")
    assert json.loads(dashboard["data"]["kvcache.json"]) == json.loads(text)


def test_replicas_meet_in_a_store_whose_password_is_in_no_manifest(helm: ModuleType, kubernetes: ModuleType) -> None:
    manifests = render(helm, {"sharedState": {"secretName": "valkey"}})
    (container,) = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]["containers"]
    given = {one["name"]: one["valueFrom"] for one in container["env"] if "valueFrom" in one}
    assert given == {"SHARED_STATE": {"secretKeyRef": {"name": "valkey", "key": "url"}}}
    plain = render(helm, {"sharedState": {"url": "valkey://valkey:6379"}})
    assert settings({"ZMQ_ENDPOINT": "", **of_kind(plain, "ConfigMap")["data"]}).shared_state is not None
    for made in (manifests, plain):
        assert_valid(kubernetes, made)
        egress = of_kind(made, "NetworkPolicy")["spec"]["egress"]
        assert {"to": [{"podSelector": {}}], "ports": [{"port": 6379}]} in egress
    assert {"port": 6379} not in [
        port for rule in of_kind(render(helm), "NetworkPolicy")["spec"]["egress"] for port in rule["ports"]
    ]


def test_the_policy_lets_replicas_collectors_and_what_is_named_through(
    helm: ModuleType, kubernetes: ModuleType
) -> None:
    further = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 26379}]}
    collector = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.tracing:4318/v1"}
    manifests = render(helm, {"settings": collector, "networkPolicy": {"extraEgress": [further]}})
    assert_valid(kubernetes, manifests)
    policy = of_kind(manifests, "NetworkPolicy")["spec"]
    assert {"to": [{"podSelector": policy["podSelector"]}], "ports": [{"port": 8080}]} in policy["egress"]
    assert {"ports": [{"port": 4318}]} in policy["egress"]
    assert policy["egress"][-1] == further


@pytest.mark.parametrize("store", [{"url": "valkey://valkey"}, {"secretName": "valkey"}])
def test_replicas_start_from_the_snapshot_in_their_store_unless_told_otherwise(
    helm: ModuleType, store: dict[str, str]
) -> None:
    def source(**given: object) -> object:
        return of_kind(render(helm, dict(given)), "ConfigMap")["data"].get("BOOTSTRAP_FROM")

    assert source() is None
    assert source(sharedState=store) == "shared"
    for other in ("", "http://kvcache:8080"):
        assert source(sharedState=store, settings={"BOOTSTRAP_FROM": other}) == other


@pytest.mark.parametrize(
    "values",
    [
        {"pods": [{"url": "vllm:8000"}]},
        {"sharedState": {"url": "http://a"}},
        {"settings": {"SHARED_STATE": "valkey://a"}},
    ],
)
def test_wrong_addresses_are_refused(helm: ModuleType, values: dict[str, Any]) -> None:
    with pytest.raises(helm.HelmValuesError):
        render(helm, values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"tls": {"clientCaSecretName": "a"}}, "tls.secretName"),
        ({"pods": [{"url": "http://a:8000", "key": "b"}]}, "engineKeys.secretName"),
        ({"apiKeys": {"secretName": "a"}, "serviceMonitor": {"enabled": True}}, "metricsPort"),
    ],
)
def test_values_that_need_others_say_which(helm: ModuleType, values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmError, match=named):
        render(helm, values)


def test_parts_can_be_turned_off_and_on(helm: ModuleType) -> None:
    usual = {"ConfigMap", "Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy"}
    assert {manifest["kind"] for manifest in render(helm)} == usual
    everything = {manifest["kind"] for manifest in render(helm, EVERYTHING)}
    assert everything == usual | {"HorizontalPodAutoscaler", "ServiceMonitor", "PrometheusRule"}
    off = {name: {"enabled": False} for name in ("podDisruptionBudget", "networkPolicy")}
    assert {manifest["kind"] for manifest in render(helm, {**off, "serviceAccount": {"create": False}})} == {
        "ConfigMap",
        "Deployment",
        "Service",
    }


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"replicass": 1}, "replicass"),
        ({"replicas": 0}, "/replicas"),
        ({"engines": [{"address": "tcp://*:5557"}]}, "/engines/0/address"),
        ({"engines": [{"address": "tcp://a:5557", "pod": "a,b"}]}, "/engines/0/pod"),
        ({"settings": {"block_size": 16}}, "block_size"),
    ],
)
def test_wrong_values_are_refused_by_name(helm: ModuleType, values: dict[str, Any], named: str) -> None:
    with pytest.raises(helm.HelmValuesError, match=named):
        render(helm, values)


def test_a_change_of_settings_restarts_the_pods(helm: ModuleType) -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = of_kind(render(helm, values), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/settings"])

    assert checksum({"model": "a/b"}) != checksum({"model": "a/c"})


def test_the_schema_knows_every_value(helm: ModuleType) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
    with helm.Chart.load(str(CHART)) as chart:
        schema = chart.schema
        chart.validate_schema(values)
    assert schema is not None
    assert set(values) == set(schema["properties"]) - {"global"}
