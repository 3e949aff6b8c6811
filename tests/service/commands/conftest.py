from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.conftest import ROOT
from tests.service.events.conftest import listen
from tests.waiting import PATIENCE

__all__ = ["Tool", "listen", "tool"]

Tool: TypeAlias = "Callable[..., subprocess.CompletedProcess[str]]"


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Leaves the level of the service's log as it was, which a tool that is run within a test changes."""
    logger = logging.getLogger("service")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def tool() -> Tool:
    """Runs `python -m service …` to its end."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "service", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    return run
