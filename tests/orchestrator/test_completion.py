"""What the shell completes, as bash asks for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.command import Commands, free_port
from tests.conftest import ROOT


def complete(folder: Path, line: str) -> list[str]:
    """The words that `kvcache` gives for the last word of a line."""
    words = line.split(" ")
    environment = {
        **os.environ,
        "XDG_STATE_HOME": str(folder / "state"),
        "_KVCACHE_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator"], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("kvcache st", ["stop", "start", "status"]),
        ("kvcache up --runtime p", ["podman", "process"]),
        ("kvcache up --discovery ", ["containers", "dns:", "file:", "kubernetes:"]),
        ("kvcache up -d --restart on", ["on-failure"]),
        ("kvcache up --publish-a", ["--publish-address"]),
    ],
)
def test_commands_options_and_their_values_are_completed(tmp_path: Path, line: str, words: list[str]) -> None:
    assert complete(tmp_path, line) == words


def test_the_names_of_services_are_completed(tmp_path: Path) -> None:
    kvcache = Commands(tmp_path)
    name = f"kv-complete-{os.getpid()}"
    options = ("--runtime", "process", "--name", name, "--port", str(free_port()), "--model", "builtin/demo")
    try:
        assert kvcache.run("up", "-d", *options).code == 0
        assert complete(tmp_path, f"kvcache down kv-complete-{os.getpid()}") == [name]
        assert complete(tmp_path, "kvcache logs --name kv-comp") == [name]
    finally:
        kvcache.run("down", name, "--runtime", "process")
        kvcache.close()
