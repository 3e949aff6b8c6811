"""The files around the code: the Makefile, the wheel, the linters' configuration."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT


def test_make_alone_lists_and_explains_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony
    command = ["make", "--no-print-directory"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split()[1] for line in listed] == phony[1].split()
    assert all(len(line.split()) > 2 for line in listed)


def test_the_wheel_holds_the_license_and_the_page_and_says_that_both_packages_are_typed(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "KVCACHE_BACKEND": "fallback"},
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (archive.read(name).decode() for name in names if name.endswith(".dist-info/METADATA"))
    assert {"orchestrator/py.typed", "service/py.typed", "orchestrator/context/Containerfile"} <= set(names)
    assert {"orchestrator/valkey/Containerfile", "orchestrator/valkey/requirements.lock"} <= set(names)
    assert {f"service/ui/static/{file.name}" for file in (ROOT / "service/ui/static").iterdir()} <= set(names)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert "License-Expression: Apache-2.0" in metadata


def test_pre_commit_runs_every_linter_of_make_lint() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = makefile.split("\nlint:")[1].split("\n\n")[0]
    linters = set(re.findall(r"\$\(BIN\)/(\w+)", recipe))
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert linters == {"ruff", "mypy", "shellcheck"}
    assert linters <= set(re.findall(r"entry: \.venv/bin/(\w+)", hooks))
