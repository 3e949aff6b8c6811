from __future__ import annotations

import subprocess
import sys

from tests.conftest import ROOT


def test_the_tables_in_docs_agree_with_the_code() -> None:
    check = subprocess.run(
        [sys.executable, "-m", "scripts.generated_docs", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert check.returncode == 0, check.stderr
