from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def test_the_tables_of_the_readme_say_what_the_code_says() -> None:
    check = subprocess.run(
        [sys.executable, "-m", "scripts.readme", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, f"out of date: run `python -m scripts.readme`\n{check.stderr}"
