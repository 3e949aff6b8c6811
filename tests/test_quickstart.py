"""docs/quickstart.md as it stands: its commands, with other ports and names, and simulated engines for vLLM's."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.command import free_port
from tests.ports import unassigned_port
from tests.quickstart import Shell, blocks


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def _answer(output: str) -> str:
    """The chat's reply among the lines that commands print."""
    (line,) = (line for line in output.splitlines() if line.startswith('{"id":'))
    return str(json.loads(line[: line.rindex("}") + 1])["choices"][0]["message"]["content"])


def test_simulated_engines_answer_through_the_service(shell: Shell) -> None:
    first, port = unassigned_port(range(3)), str(free_port())
    pods = {f"http://127.0.0.1:800{number}": f"http://127.0.0.1:{first + number}" for number in range(3)}
    ports = {"--pods 3": f"--pods 3 --port {first}", "localhost:8080": f"localhost:{port}"}
    output = shell.run("\n".join(blocks("Simulated engines")), replaced={**ports, **pods}, HTTP_PORT=port)
    assert "kvcache is ready!" in output
    assert _answer(output)
    assert all(f"127.0.0.1:{first + number}" in output for number in range(3))


def test_one_engine_is_found_right_by_the_doctor_and_gets_requests(shell: Shell) -> None:
    engine, port = unassigned_port(), str(free_port())
    shell.program("vllm", f'test "$1" = serve && exec kvcache simulate --pods 1 --port {engine} --topic ""')
    output = shell.run(
        "\n".join(blocks("One engine")),
        replaced={"localhost:8000": f"localhost:{engine}", "localhost:8080": f"localhost:{port}"},
        HTTP_PORT=port,
        KVCACHE_RUNTIME="process",
    )
    assert f"ok       events of localhost:{engine}" in output
    assert f"ok       reuse of localhost:{engine}" in output
    assert _answer(output)
    assert re.search(rf"^localhost:{engine} .* 16 ", output, re.MULTILINE), output  # its first block is cached


def test_the_options_of_one_engine_are_those_that_the_doctor_asks_for() -> None:
    words = shlex.split(blocks("One engine")[0].partition("&\n")[0])
    assert words[:2] == ["vllm", "serve"]
    assert "--enable-prompt-tokens-details" in words
    config = json.loads(words[words.index("--kv-events-config") + 1])
    assert config == {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": "tcp://*:5557",
        "replay_endpoint": "tcp://*:5558",
    }


def test_the_second_of_two_equal_requests_goes_where_the_first_went(shell: Shell) -> None:
    first, port = unassigned_port(range(3)), str(free_port())
    pods = {f"http://10.0.0.{7 + number}:8000": f"http://127.0.0.1:{first + number}" for number in range(3)}
    engines = f"kvcache simulate --pods 3 --port {first} &\n"
    output = shell.run(
        engines + "\n".join(blocks("Three engines")),
        replaced={**pods, "localhost:8080": f"localhost:{port}"},
        HTTP_PORT=port,
        KVCACHE_RUNTIME="process",
    )
    one, other = (line for line in output.splitlines() if line.lower().startswith("x-kvcache-pod:"))
    assert one == other
    predicted = [line for line in output.splitlines() if line.lower().startswith("x-kvcache-predicted-tokens:")]
    assert predicted
