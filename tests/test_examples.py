from __future__ import annotations

import os
import subprocess
import sys

from tests.conftest import ROOT


def test_the_example_of_the_python_api_runs_and_tells_what_the_engines_hold() -> None:
    example = subprocess.run(
        [sys.executable, "scripts/examples/offline.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert example.stdout.splitlines()[0] == "10.0.0.1:8000 holds 24 blocks"
    assert example.stdout.splitlines()[-1] == "scores: {'10.0.0.1:8000': 3, '10.0.0.2:8000': 3}"
