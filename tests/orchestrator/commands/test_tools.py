from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.commands import tools
from orchestrator.errors import Problem
from tests.command import Commands
from tests.conftest import ROOT
from tests.tries import only_thorough


def test_tools_of_the_service_are_run_with_their_own_options_and_exit_codes(
    kvcache: Commands, recordings: Path
) -> None:
    done = kvcache.run("offline", str(recordings / "a_simple.jsonl"), "--prefixes", "1")
    assert done.code == 0
    assert "3 messages over" in done.output
    assert kvcache.run("offline", "no-such-file").code == 1
    assert kvcache.run("replay").code == 2


@pytest.mark.parametrize(
    "tool", ["offline", *(pytest.param(tool, marks=only_thorough) for tool in ("record", "replay", "simulate"))]
)
def test_their_help_names_them_as_they_were_called(kvcache: Commands, tool: str) -> None:
    done = kvcache.run(tool, "--help")
    assert done.code == 0
    assert f"usage: kvcache {tool}" in done.output


def test_without_the_services_half_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "missing_packages", lambda: ["pyzmq>=26", "xxhash"])
    with pytest.raises(Problem, match="pyzmq, xxhash not installed") as caught:
        tools.run_tool("record", [])
    assert "pip install 'kvcache[service]'" in caught.value.remedy


# Read by each Python that starts: packages of the service's half cannot be imported.
_WITHOUT_PACKAGES = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {"aiohttp", "msgspec", "zmq", "xxhash", "jinja2", "tokenizers", "prometheus_client"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def test_help_of_simulate_needs_no_package_of_the_service(kvcache: Commands, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(_WITHOUT_PACKAGES)
    environment = {"PYTHONPATH": str(tmp_path)}
    done = kvcache.run("simulate", "--help", environment=environment)
    assert (done.code, "--prefill-rate" in done.output) == (0, True), done.output
    done = kvcache.run("offline", "--help", environment=environment)
    assert done.code == 1
    assert done.output.startswith("offline: not installed here: "), done.output
    assert "pip install 'kvcache[service]'" in done.output


def test_a_killed_simulate_leaves_no_process_that_holds_its_ports(kvcache: Commands) -> None:
    first = kvcache.start("simulate", "--pods", "1", "--port", "0")
    first.wait_for("ZMQ_ENDPOINT=")
    port = first.output.splitlines()[0].rpartition(":")[2]
    taken = kvcache.run("simulate", "--pods", "1", "--port", port)
    assert taken.code == 1
    assert f"simulate: port {port} of 127.0.0.1 cannot be listened on: Address already in use" in taken.output
    assert "--port" in taken.output

    first.process.kill()
    first.process.wait()
    second = kvcache.start("simulate", "--pods", "1", "--port", port)
    second.wait_for("ZMQ_ENDPOINT=")


def test_a_folder_of_the_callers_does_not_take_the_place_of_the_service(tmp_path: Path) -> None:
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "__main__.py").write_text("print('a stranger')")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "orchestrator", "offline", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    assert b"usage: kvcache offline" in done.stdout
