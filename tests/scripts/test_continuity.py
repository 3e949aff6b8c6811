from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.bench.continuity.__main__ import CASES
from tests.conftest import ROOT
from tests.tries import only_thorough

SMALL = ("--quick", "--pods", "2", "--outage", "1")
BLOCKS = {"a full disk": "100000"}
"""Two snapshots of fewer blocks have room on the smallest disk."""


@only_thorough
@pytest.mark.parametrize("case", CASES)
def test_each_case_runs_alone_and_judges_its_aims(case: str) -> None:
    command = [sys.executable, "-m", "scripts.bench.continuity", *SMALL, "--blocks", BLOCKS.get(case, "2000")]
    command += ["--case", case, "--markdown"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode in {0, 1}, run.stderr  # 1: an aim was missed, as on a busy machine
    assert "Traceback" not in run.stderr
    assert f"\n{case}\n" in run.stdout
    assert f"| {case} |" in run.stdout
    assert "no over-claim: 0" in run.stdout
