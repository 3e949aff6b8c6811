from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.command import Commands, free_port
from tests.conftest import ROOT

README = ROOT / "README.md"
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


def test_the_first_lines_of_the_readme_serve_any_openai_client(tmp_path: Path) -> None:
    from openai import OpenAI  # noqa: PLC0415 - slow to load

    readme = README.read_text(encoding="utf-8")
    up = re.findall(r"^kvcache (up .*)$", readme, re.MULTILINE)[0]
    engines = [free_port(), free_port()]
    port = free_port()
    for number, engine in enumerate(engines):
        pod = f"http://10.0.0.{7 + number}:8000"
        assert pod in up
        up = up.replace(pod, f"http://127.0.0.1:{engine}")
    shown = re.search(r"# any OpenAI client at http://localhost:8080/v1", readme)
    assert shown is not None
    kvcache = Commands(tmp_path)
    try:
        for engine in engines:  # two free ports need not be neighbours
            kvcache.start("simulate", "--pods", "1", "--port", str(engine)).wait_for("ZMQ_ENDPOINT=")
        kvcache.start(*up.split(), "--runtime", "process", "--port", str(port)).wait_for("Press Ctrl+C to stop")
        with OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none") as client:
            (model,) = client.models.list()
            messages: Any = [{"role": "user", "content": "Which ferry leaves first?"}]
            whole = client.chat.completions.create(model=model.id, messages=messages, max_tokens=5)
            stream = client.chat.completions.create(model=model.id, messages=messages, max_tokens=5, stream=True)
            assert "".join(part.choices[0].delta.content or "" for part in stream) == whole.choices[0].message.content
    finally:
        kvcache.run("down", "--all", "--runtime", "process")
        kvcache.close()
