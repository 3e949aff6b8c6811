from __future__ import annotations

import os
import subprocess
import sys

import pytest

from service.native import backend

CHOICE = "from service.native import backend; print(backend.COMPILED, backend.Table.__module__)"


def choose(**environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in {"KVCACHE_BACKEND", "KVCACHE_LOOPS"}}
    return subprocess.run(
        [sys.executable, "-c", CHOICE], env={**kept, **environment}, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("variable", [{"KVCACHE_BACKEND": "fallback"}, {"KVCACHE_LOOPS": "plain"}])
def test_the_fallback_is_used_when_it_is_asked_for(variable: dict[str, str]) -> None:
    assert choose(**variable).stdout == "False service.native.fallback\n"


def test_an_unknown_backend_is_refused_with_the_names_that_exist() -> None:
    assert "KVCACHE_BACKEND=fast: expected compiled or fallback" in choose(KVCACHE_BACKEND="fast").stderr


@pytest.mark.skipif(not backend.COMPILED, reason="the inner loops are not compiled")
def test_compiled_modules_are_used_where_they_are_built() -> None:
    assert choose().stdout == choose(KVCACHE_BACKEND="compiled").stdout == "True service.native.table\n"
