"""A start is quick: what is not needed to answer is imported later."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

_START = """
import sys
import service.serving
from service.app import create_app
from service.contract.settings import Settings
create_app(Settings.from_environment({"CONTAINER_ENV": "true"}))
"""

_LATER = (
    "dns",  # DISCOVERY=dns:…
    "huggingface_hub",
    "importlib.metadata",
    "importlib.resources",
    "jinja2",
    "mistral_common",
    "openai_harmony",
    "opentelemetry",  # OTEL_EXPORTER_OTLP_ENDPOINT
    "prometheus_client",
    "redis",  # SHARED_STATE
    "service.fleet.discovery.kubernetes",  # DISCOVERY=kubernetes:…
    "tokenizers",
    "yaml",  # PODS_FILE
    "zmq.auth",  # ZMQ_CURVE_KEY
)
"""Packages for single settings, for the first model, and for the first scrape."""


def test_a_start_imports_nothing_that_only_later_work_needs() -> None:
    loaded = {name for name in _printed(f"{_START}print(*sys.modules)") if name.startswith(_LATER)}
    assert {name for name in loaded if any(f"{name}.".startswith(f"{later}.") for later in _LATER)} == set()


def test_a_start_defines_no_dataclasses_but_those_of_the_contract() -> None:
    script = f"""{_START}
for name in list(sys.modules):
    for defined in vars(sys.modules[name]).values() if name.startswith("service.") else ():
        if hasattr(defined, "__dataclass_fields__"):
            print(defined.__module__)
"""
    assert {name for name in _printed(script) if not name.startswith("service.contract.")} == set()


def test_trusted_certificates_are_read_once_for_all_pods() -> None:
    script = """
import ssl
from service.contract.pods import parse_pods
from service.gateway.connection import ConnectionPool

create = ssl.create_default_context
def told():
    print("read")
    return create()

ssl.create_default_context = told
for entry in parse_pods("https://a.example,https://b.example,http://c.example"):
    ConnectionPool(entry)
"""
    assert _printed(script) == ["read"]


def test_garbage_is_collected_once_the_service_serves() -> None:
    script = """
import gc
from service import serving
from service.__main__ import main

async def told(*_):
    print(gc.isenabled())

serving._serve = told
main(["serve"], {"CONTAINER_ENV": "true"})
"""
    assert _printed(script) == ["True"]


def _printed(script: str) -> list[str]:
    """The words that a script prints in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()
