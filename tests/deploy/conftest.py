"""Tools of deploy/requirements.lock, which `make manifests` installs; KVCACHE_REQUIRE_DEPLOY forbids to skip."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest


def _missing(tool: str) -> None:
    if os.environ.get("KVCACHE_REQUIRE_DEPLOY"):
        pytest.fail(f"{tool} is missing")
    pytest.skip(f"{tool} is missing; `make manifests` installs it")


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError:
        _missing(name)
        raise


@pytest.fixture(scope="session")
def helm() -> ModuleType:
    """Helm's own code, as a library."""
    return _module("helm_python")


@pytest.fixture(scope="session")
def kubernetes() -> ModuleType:
    """The schemas of Kubernetes' releases."""
    return _module("kubernetes_validate")


@pytest.fixture(scope="session")
def grafana() -> ModuleType:
    """Grafana's library that makes and reads dashboards."""
    return _module("grafana_foundation_sdk")


@pytest.fixture(scope="session")
def prometheus() -> Path:
    """The folder of `prometheus` and `promtool`; Debian's package has both."""
    named = os.environ.get("KVCACHE_PROMETHEUS")
    found = shutil.which("promtool", path=named)
    if found is None or shutil.which("prometheus", path=named) is None:
        _missing("prometheus (KVCACHE_PROMETHEUS names the folder of its programs)")
    return Path(str(found)).parent


@pytest.fixture(scope="session")
def kubectl() -> str:
    found = shutil.which("kubectl")
    if found is None:
        _missing("kubectl")
    return str(found)


@pytest.fixture(scope="session")
def quadlet() -> str:
    """Podman's generator of systemd units; Debian has it from trixie on."""
    found = os.environ.get("KVCACHE_QUADLET") or shutil.which("/usr/libexec/podman/quadlet")
    if found is None:
        pytest.skip("Podman's quadlet is missing; KVCACHE_QUADLET names it")
    return found
