from __future__ import annotations

import subprocess
import sys

import pytest

from scripts.bench.continuity.__main__ import CASES
from tests.conftest import ROOT
from tests.tries import THOROUGH

SMALL = ("--quick", "--blocks", "2000", "--pods", "2", "--outage", "1")


@pytest.mark.parametrize("case", CASES if THOROUGH else ["kill -9, replay"])
def test_each_case_runs_alone_and_judges_its_aims(case: str) -> None:
    command = [sys.executable, "-m", "scripts.bench.continuity", *SMALL, "--case", case, "--markdown"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode in {0, 1}, run.stderr  # 1: an aim was missed, as on a busy machine
    assert "Traceback" not in run.stderr
    assert f"\n{case}\n" in run.stdout
    assert f"| {case} |" in run.stdout
    assert "no over-claim: 0" in run.stdout
