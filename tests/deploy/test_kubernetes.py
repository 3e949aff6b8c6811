from __future__ import annotations

import subprocess
from types import ModuleType

import pytest
import yaml

from tests.conftest import ROOT
from tests.deploy.manifests import Manifest, assert_hardened, assert_selects_the_pods, assert_valid, of_kind, settings

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


def test_the_service_understands_its_settings(manifests: list[Manifest]) -> None:
    settings(of_kind(manifests, "ConfigMap")["data"])
