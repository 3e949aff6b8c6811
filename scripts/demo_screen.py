"""Draws docs/demo.svg, the README's picture of `kvcache demo`: the live view during a real run, and its end.

    python scripts/demo_screen.py

Runs the service as a child process.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import cast

from rich.console import Console as Terminal
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from orchestrator.commands.demo import MODEL, REQUESTS
from orchestrator.commands.demo_view import DemoView
from orchestrator.commands.up import up
from orchestrator.console import Console
from orchestrator.launch import Launch
from orchestrator.runtimes.base import ContainerRuntime, RuntimeKind
from service.contract.demo_lines import Ended, Routed, Started, read_line
from tests.command import free_port
from tests.conftest import ROOT

_SHOWN_REQUEST = 227


def main() -> int:
    terminal = Terminal(record=True, width=80, force_terminal=True, file=io.StringIO(), color_system="truecolor")
    launch = Launch(
        runtime=RuntimeKind.PROCESS,
        name="kvcache-demo-screen",
        port=free_port(),
        model=MODEL,
        zmq_endpoint="",
        block_size=16,
        engines_beside=True,
    )

    def play(runtime: ContainerRuntime) -> None:
        url = f"http://127.0.0.1:{launch.port}"
        arguments = ["demonstrate", f"--url={url}", "--pods=3", f"--requests={REQUESTS}", "--rate=20"]
        lines = map(read_line, runtime.run_tool(launch.name, arguments))
        view = DemoView(terminal, cast("Started", next(lines)), runtime.kind)
        terminal.print(Text("$ kvcache demo", style="bold"))
        for line in lines:
            if isinstance(line, Routed) and line.number == _SHOWN_REQUEST:
                terminal.print(view.frame(line))
                terminal.print(Text("\n… and in the end\n", style="dim"))
            elif isinstance(line, Ended):
                view.ended(line)

    up(launch, Console(quiet=True), play)
    picture = ROOT / "docs" / "demo.svg"
    terminal.save_svg(str(picture), title="kvcache demo")
    print(f"{picture.relative_to(ROOT)}: {picture.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
