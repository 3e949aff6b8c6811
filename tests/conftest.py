from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.tries import tries

ROOT = Path(__file__).resolve().parent.parent
BUILTIN = ROOT / "service" / "prompts" / "models" / "builtin" / "demo"

# A shell's background job ignores Ctrl+C, and so would the commands that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The examples are the same in each run, and may be as slow as the machine is.
settings.register_profile(
    "repeatable",
    max_examples=tries(25, 300),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("repeatable")


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
