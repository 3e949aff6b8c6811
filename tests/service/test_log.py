from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import logging
from service import log
log.configure({format!r}, "info")
logger = logging.getLogger("service.test")
logger.debug("left out")
logger.info("hello %s", "wörld\\udc80\\nsecond line")
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("failed")
input()
"""


def lines_of(log_format: str, **environment: str) -> list[str]:
    """The lines that a process has written to a pipe while it still runs."""
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(format=log_format)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **environment},
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        lines: list[bytes] = []
        while not lines or b"division by zero" not in lines[-1]:
            lines.append(process.stdout.readline())
        process.stdin.close()
    assert process.returncode != 0
    return [line.decode().rstrip("\n") for line in lines]


def test_json_lines_are_one_object_each_and_unbuffered() -> None:
    hello, failed = map(json.loads, lines_of("json"))
    assert hello["level"] == "info"
    assert hello["logger"] == "service.test"
    assert hello["message"] == "hello wörld\\udc80\nsecond line"
    assert hello["time"].endswith("+00:00")
    assert failed["message"] == "failed"
    assert "ZeroDivisionError" in failed["error"]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_human_lines_escape_characters_that_the_output_cannot_encode(encoding: str) -> None:
    first = lines_of("human", PYTHONIOENCODING=encoding)[0]
    assert "INFO    service.test: hello w" in first
    assert "\\udc80" in first


FLOOD = """
import logging, sys
from service import log
log.configure("human", "info")
logger = logging.getLogger("service.test")
for number in range(30_000):
    logger.info("line %d", number)
sys.stderr.write(f"{log.STDOUT.dropped} dropped\\n")
sys.stderr.flush()
input()
"""


def test_a_pipe_that_nobody_reads_holds_up_nobody_and_what_is_dropped_is_said_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FLOOD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        dropped = int(process.stderr.readline().split()[0])  # nothing of standard output was read until here
        assert dropped > 0
        lines = [process.stdout.readline() for _ in range(30_000 - dropped + 1)]
        process.stdin.close()
    assert sum(b"log lines were dropped" in line for line in lines) == 1
    numbers = [int(line.split()[-1]) for line in lines if b"service.test" in line]
    assert numbers == sorted(numbers)
    assert len(numbers) == 30_000 - dropped
