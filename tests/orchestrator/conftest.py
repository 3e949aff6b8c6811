from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Commands
from tests.orchestrator.invoked import Invoker


@pytest.fixture
def kvcache(tmp_path: Path) -> Iterator[Commands]:
    """The `kvcache` command, with a state folder of the test's own."""
    commands = Commands(tmp_path)
    yield commands
    if any(commands.state.glob("process/*")):
        commands.run("down", "--all", "--runtime", "process")
    commands.close()


@pytest.fixture
def invoker(tmp_path: Path) -> Invoker:
    """The same in this process, for commands that start nothing."""
    return Invoker(tmp_path)
