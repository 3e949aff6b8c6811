from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.commands import tools
from orchestrator.errors import Problem
from tests.command import Commands


def test_tools_of_the_service_are_run_with_their_own_options_and_exit_codes(
    kvcache: Commands, recordings: Path
) -> None:
    done = kvcache.run("offline", str(recordings / "a_simple.jsonl"), "--prefixes", "1")
    assert done.code == 0
    assert "3 messages over" in done.output
    assert kvcache.run("offline", "no-such-file").code == 1
    assert kvcache.run("replay").code == 2


@pytest.mark.parametrize("tool", ["offline", "record", "replay", "simulate"])
def test_their_help_names_them_as_they_were_called(kvcache: Commands, tool: str) -> None:
    done = kvcache.run(tool, "--help")
    assert done.code == 0
    assert f"usage: kvcache {tool}" in done.output


def test_without_the_services_half_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "missing_packages", lambda: ["pyzmq>=26", "xxhash"])
    with pytest.raises(Problem, match="pyzmq, xxhash not installed") as caught:
        tools.run_tool("record", [])
    assert "pip install 'pyzmq>=26' 'xxhash'" in caught.value.remedy
