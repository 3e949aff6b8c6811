from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import free_port
from tests.conftest import ROOT
from tests.tries import only_thorough
from tests.waiting import PATIENCE


def smoke(state: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = Path(sys.executable).parent
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "smoke", "--runtime", "process", "--timeout", str(PATIENCE), *options],
        env={**os.environ, "PATH": f"{command}:{os.environ['PATH']}", "XDG_STATE_HOME": str(state)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("named", [False, pytest.param(True, marks=only_thorough)])
def test_every_endpoint_is_asked_and_nothing_is_left(tmp_path: Path, named: bool) -> None:
    options = ["--name", "of-my-own", "--port", str(free_port())] if named else []
    done = smoke(tmp_path, *options)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("  ok  ") == 6
    assert "all endpoints answered" in done.stdout
    assert ("of-my-own" in done.stdout) == named
    assert not list(tmp_path.glob("**/process/*"))


@only_thorough
def test_an_unknown_option_of_up_is_reported_and_fails(tmp_path: Path) -> None:
    done = smoke(tmp_path, "--port", "70000")
    assert done.returncode == 1
    assert "70000 is not in the range" in done.stdout
