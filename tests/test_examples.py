from __future__ import annotations

import os
import re
import subprocess
import sys

from tests.conftest import ROOT

PAGE = ROOT / "docs" / "record-and-study.md"
EXAMPLE = ROOT / "scripts" / "examples" / "offline.py"


def blocks(language: str) -> list[str]:
    """Gives the code blocks of the page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_example_of_the_python_api_prints_what_the_engines_hold() -> None:
    example = subprocess.run(
        [sys.executable, EXAMPLE],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert example.stdout.splitlines()[0] == "10.0.0.1:8000 holds 24 blocks"
    assert example.stdout.splitlines()[-1] == "scores: {'10.0.0.1:8000': 3, '10.0.0.2:8000': 3}"


def test_the_python_in_the_documentation_is_a_part_of_the_example() -> None:
    (shown,) = blocks("python")
    example = EXAMPLE.read_text(encoding="utf-8").splitlines()
    assert [line for line in example if line in shown.splitlines() and line] == shown.splitlines()


def test_the_comparison_in_the_documentation_prints_the_line_that_it_shows() -> None:
    (shown,) = blocks("console")
    command, output = shown.splitlines()
    arguments = command.removeprefix("$ kvcache offline ").removesuffix(" | tail -1").split()
    offline = subprocess.run(
        [sys.executable, "-m", "service", "offline", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert offline.stdout.splitlines()[-1] == output
