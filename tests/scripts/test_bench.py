from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import psutil
import pytest

from scripts.bench.__main__ import PARTS, main
from tests.conftest import ROOT
from tests.tries import THOROUGH, only_thorough
from tests.waiting import PATIENCE


def bench(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "scripts.bench", *arguments],
        cwd=ROOT,
        # Containers are tested in tests/e2e; peers are optional.
        env={**os.environ, "KVCACHE_RUNTIME": "process", "KVCACHE_BENCH_DYNAMO": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


Run: TypeAlias = "Callable[..., int]"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a benchmark that measures nothing, in this process; gives its exit code."""

    def invoked(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["scripts.bench", *arguments])
        try:
            return main()
        except SystemExit as error:  # argparse: the usage is wrong
            assert isinstance(error.code, int)
            return error.code

    return invoked


@pytest.mark.parametrize("part", PARTS if THOROUGH else ["ids"])
def test_each_part_of_the_benchmark_runs_alone_and_prints_a_table(part: str, tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    running = bench(part, "--scale", "0.01", "--rounds", "1", "--json", str(file))
    output, errors = running.communicate()
    assert running.returncode == 0, errors
    measures = json.loads(file.read_text())["measures"]
    assert measures
    # A figure with a limit may be 0 (no turn of the event loop was as long), and of more than one measurement.
    compared = [measure["ours"] for measure in measures if measure["most"] is None]
    assert all(len(values) == 1 and values[0] > 0 for values in compared)
    assert all(measure["what"][:20] in output for measure in measures)


def test_saved_results_are_shown_as_markdown(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure = {"part": "2 ids → scores", "unit": "ms", "ours": [1.0, 3.0, 2.0]}
    file = tmp_path / "results.json"
    file.write_text(
        json.dumps(
            {
                "machine": "2 CPUs",
                "left_out": [],
                "measures": [
                    measure | {"what": "1,024 ids", "peer": "dynamo", "theirs": [2.0, 6.0, 8.0], "least_ratio": 1},
                    measure | {"what": "without a target"},
                    measure | {"what": "up", "most": 3.0},
                ],
            }
        )
    )
    assert run("--from", str(file), "--markdown") == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| 2 ids → scores: 1,024 ids | 2 ms | 6 ms, dynamo | 2 | ≥ 1 |",
        "| 2 ids → scores: up | 2 ms |  |  | ≤ 3 ms |",
    ]


@pytest.mark.parametrize(("again", "lost"), [([1.0, 1.0, 1.0], True), ([1.1, 0.9, 1.1], False)])
def test_a_loss_beyond_the_noise_fails(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], again: list[float], lost: bool
) -> None:
    slower = {"part": "ids", "what": "CPU", "unit": "ms", "ours": [1.2, 1.3, 1.2], "peer": "before"}
    report = {"machine": "", "left_out": [], "measures": [slower | {"theirs": [1.0, 1.0, 1.0], "again": again}]}
    file = tmp_path / "results.json"
    file.write_text(json.dumps(report))
    for most, expected in (("15", 1 if lost else 0), ("25", 0)):
        assert run("--from", str(file), "--most-loss", most) == expected
        assert ("ids: CPU" in capsys.readouterr().err) == bool(expected)


def test_an_interrupted_benchmark_leaves_nothing_running() -> None:
    running = bench("events", "--quick")
    process = psutil.Process(running.pid)
    assert running.stderr is not None
    assert "events" in running.stderr.readline()  # rows with further servers follow
    servers = process.children(recursive=True)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=PATIENCE)
    assert running.returncode == 130
    assert not [server for server in servers if server.is_running()]


def test_an_unknown_part_is_refused(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("speed") == 2
    assert "no part speed" in capsys.readouterr().err


@only_thorough
def test_a_checkout_is_compared_with_another_row_by_row(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    rounds = "2"
    running = bench("ids", "--against", str(ROOT), "--scale", "0.01", "--rounds", rounds, "--json", str(file))
    output, errors = running.communicate()
    assert running.returncode == 0, errors
    rows = json.loads(file.read_text())["measures"]
    assert rows
    assert all(len(row["ours"]) == len(row["theirs"]) == len(row["again"]) == int(rounds) for row in rows)
    assert {row["peer"] for row in rows} == {ROOT.name}
    assert "1,024 ids, CPU" in output


def test_a_folder_without_a_benchmark_is_refused(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--against", str(tmp_path)) == 2
    assert "is not a checkout of kvcache" in capsys.readouterr().err
