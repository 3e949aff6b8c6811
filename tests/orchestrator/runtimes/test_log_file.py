from __future__ import annotations

import threading
from datetime import UTC, datetime
from pathlib import Path
from queue import Queue

import pytest

from orchestrator.runtimes.base import LogQuery
from orchestrator.runtimes.log_file import read_log

_AT_NOON = datetime(2026, 1, 31, 12, tzinfo=UTC).timestamp()
_LOG = """\
starting
2026-01-31T11:59:59Z INFO before
{"time":"2026-01-31T12:00:00.000+00:00","message":"json at noon"}
  a line of its traceback
2026-01-31T12:00:01.500Z INFO after
"""


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "service.log"
    path.write_text(_LOG)
    return path


def test_the_last_lines(log: Path) -> None:
    assert list(read_log(log, LogQuery(tail=2), lambda: False)) == _LOG.splitlines()[-2:]
    assert list(read_log(log, LogQuery(tail=0), lambda: False)) == []
    assert list(read_log(log, LogQuery(), lambda: False)) == _LOG.splitlines()


def test_lines_since_a_time_with_those_that_belong_to_them(log: Path) -> None:
    assert list(read_log(log, LogQuery(since=_AT_NOON), lambda: False)) == _LOG.splitlines()[2:]
    assert list(read_log(log, LogQuery(since=_AT_NOON, tail=1), lambda: False)) == _LOG.splitlines()[-1:]


def test_following_gives_what_is_written_and_ends_with_the_writer(log: Path) -> None:
    alive = threading.Event()
    alive.set()
    seen: Queue[str] = Queue()

    def follow() -> None:
        for line in read_log(log, LogQuery(tail=0, follow=True), alive.is_set):
            seen.put(line)

    follower = threading.Thread(target=follow)
    follower.start()
    # The follower begins at the end of the file as it finds it, so that one of the first lines may be missed.
    while seen.empty():
        with log.open("a") as file:
            file.write("more\n")
    with log.open("a") as file:
        file.write("the last\n")
    alive.clear()
    follower.join(5)

    assert not follower.is_alive()
    assert list(seen.queue)[-1] == "the last"


def test_a_log_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    assert list(read_log(tmp_path / "none", LogQuery(follow=True), lambda: True)) == []
