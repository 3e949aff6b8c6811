"""The parts of docs/quickstart.md, and a shell that runs their commands as they stand there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from tests.conftest import ROOT
from tests.waiting import PATIENCE

PAGE = ROOT / "docs" / "quickstart.md"


def blocks(part: str, language: str = "sh") -> list[str]:
    """The code blocks in a language under a heading."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n## {part}\n")
    text, _, _ = rest.partition("\n## ")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


class Shell:
    """Runs scripts with `kvcache` and other programs on its PATH, in a folder of its own inside the checkout's view."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bin = folder / "bin"
        self._bin.mkdir()
        self.program("kvcache", f'PYTHONPATH={ROOT} exec {sys.executable} -P -m orchestrator "$@"')

    def program(self, name: str, line: str) -> None:
        """Puts a program on PATH that is one line of shell."""
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)

    def run(self, script: str, *, replaced: Mapping[str, str], seconds: float = 3 * PATIENCE, **given: str) -> str:
        """What the commands print; fails with it if one of them fails. Ends what they leave running."""
        for old, new in replaced.items():
            assert old in script, old
            script = script.replace(old, new)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("KVCACHE_", "HTTP_", "HF_"))},
            "PATH": f"{self._bin}:{os.environ['PATH']}",
            "XDG_STATE_HOME": str(self._folder / "state"),
            **given,
        }
        output = self._folder / "output"
        with output.open("wb") as file:
            shell = subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=self._folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        try:
            code = shell.wait(seconds)
        finally:
            self._end(shell, environment)
        text = output.read_text(errors="replace")
        assert code == 0, text
        return text

    def _end(self, shell: subprocess.Popen[bytes], environment: Mapping[str, str]) -> None:
        down = [str(self._bin / "kvcache"), "down", "--all", "--runtime", "process"]
        subprocess.run(down, env=environment, capture_output=True, check=False)
        try:
            os.killpg(shell.pid, signal.SIGTERM)
        except ProcessLookupError:
            return
        shell.wait(PATIENCE)
