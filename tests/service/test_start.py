"""A start is quick: what is not needed to answer is imported later."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT

_SCRIPT = """
import sys
import service.serving
from service.app import create_app
from service.contract.settings import Settings
create_app(Settings.from_environment({"CONTAINER_ENV": "true"}))
print(*sys.modules)
"""

_LATER = (
    "dns",  # DISCOVERY=dns:…
    "huggingface_hub",
    "importlib.metadata",
    "jinja2",
    "mistral_common",
    "openai_harmony",
    "opentelemetry",  # OTEL_EXPORTER_OTLP_ENDPOINT
    "prometheus_client",
    "redis",  # SHARED_STATE
    "tokenizers",
    "yaml",  # PODS_FILE
)
"""Packages for single settings, for the first model, and for the first scrape."""


def test_a_start_imports_nothing_that_only_later_work_needs() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = {name for name in done.stdout.split() if name.startswith(_LATER)}
    assert {name for name in loaded if any(f"{name}.".startswith(f"{later}.") for later in _LATER)} == set()


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
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True"]
