"""Properties that every way to run the service on Kubernetes must have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

import yaml

from service.contract.settings import Settings, describe
from service.contract.units import parse_seconds

RELEASES = ("1.27.0", "1.34.0")
"""The oldest that the chart allows, and a recent one."""

Manifest: TypeAlias = Mapping[str, Any]


def parsed(texts: Iterable[str]) -> list[Manifest]:
    return [manifest for text in texts for manifest in yaml.safe_load_all(text) if manifest]


def assert_valid(kubernetes: ModuleType, manifests: Iterable[Manifest]) -> None:
    """Validates manifests strictly against the schemas of Kubernetes; those of other projects have none there."""
    for manifest in manifests:
        if "coreos.com" not in manifest["apiVersion"]:
            for release in RELEASES:
                kubernetes.validate(manifest, release, strict=True)


def of_kind(manifests: Iterable[Manifest], kind: str) -> Manifest:
    (found,) = (manifest for manifest in manifests if manifest["kind"] == kind)
    return found


def assert_selects_the_pods(manifests: Iterable[Manifest]) -> None:
    """Every selector matches the labels of the Deployment's pods, and is not empty."""
    manifests = list(manifests)
    deployment = of_kind(manifests, "Deployment")["spec"]
    labels = deployment["template"]["metadata"]["labels"].items()
    selectors = [
        deployment["selector"]["matchLabels"],
        of_kind(manifests, "Service")["spec"]["selector"],
        of_kind(manifests, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        of_kind(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector and selector.items() <= labels for selector in selectors)


def assert_hardened(manifests: Iterable[Manifest]) -> None:
    """The container has the privileges that `kvcache up` gives it, and a token only if its account has a role."""
    manifests = list(manifests)
    pod = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 10001
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    uses_account = any(manifest["kind"] == "RoleBinding" for manifest in manifests)
    assert pod["automountServiceAccountToken"] is uses_account
    assert not pod["enableServiceLinks"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def assert_stops_after_its_last_request(manifests: Iterable[Manifest]) -> None:
    """Pods listen until Services lead elsewhere, and are not killed before they have answered what is in flight."""
    manifests = list(manifests)
    pod = of_kind(manifests, "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    program, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
    drain = parse_seconds(of_kind(manifests, "ConfigMap")["data"]["DRAIN_TIMEOUT"])
    assert (program, int(seconds) > 0) == ("sleep", True)
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + drain


def settings(environment: Mapping[str, object]) -> Settings:
    """Gives the service's settings of a manifest's variables, all of which must be known. Raises SettingsError."""
    known = {name for name, _, _ in describe()} | {"HF_TOKEN", "HF_HOME", "HF_ENDPOINT", "SSL_CERT_FILE"}
    assert set(environment) <= known
    assert all(isinstance(value, str) for value in environment.values())
    found = Settings.from_environment({name: str(value) for name, value in environment.items()})
    assert "ZMQ_ENDPOINT" in environment
    return found
