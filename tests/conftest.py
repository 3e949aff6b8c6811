from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILTIN = ROOT / "service" / "prompts" / "models" / "builtin" / "demo"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--chaos-seeds", type=int, default=2, help="how many different storms the chaos test goes through")


@pytest.fixture(scope="session")
def recordings() -> Path:
    """Events of real vLLM, with the truth: tests/recordings/README.md says what is in each."""
    return ROOT / "tests" / "recordings"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real tokenizers and chat templates, which may not be copied into the project."""
    folder = ROOT.parent / "shared"
    if not (folder / "models").is_dir():
        reason = f"{folder} with real tokenizers and templates is not on this machine"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return folder
