"""The manifests of docs/quickstart.md: what can be tried of them without a cluster."""

from __future__ import annotations

import json
from types import ModuleType

import yaml

from tests.deploy.manifests import assert_hardened, assert_valid, of_kind, parsed
from tests.deploy.test_helm import CHART
from tests.quickstart import blocks


def test_kubernetes_accepts_the_engines_and_the_chart_with_these_values(
    helm: ModuleType, kubernetes: ModuleType
) -> None:
    engines, values = (yaml.safe_load(block) for block in blocks("Kubernetes", "yaml"))
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values, name="kvcache", namespace="llm")
    manifests = parsed(text for path, text in files.items() if not path.endswith("NOTES.txt"))
    assert_valid(kubernetes, [engines, *manifests])
    assert_hardened(manifests)
    assert of_kind(manifests, "ConfigMap")["data"]["DISCOVERY"] == "kubernetes:llm/app=vllm"
    assert engines["spec"]["template"]["metadata"]["labels"] == {"app": "vllm"}
    (container,) = engines["spec"]["template"]["spec"]["containers"]
    (config,) = (one.partition("=")[2] for one in container["args"] if one.startswith("--kv-events-config="))
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert json.loads(config)["endpoint"] == f"tcp://*:{ports['events']}"
    assert json.loads(config)["replay_endpoint"] == f"tcp://*:{ports['replay']}"
