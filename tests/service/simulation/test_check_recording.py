from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "check_recording.py"


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_recording_that_agrees_with_its_truth_exits_0(recordings: Path) -> None:
    checked = check(recordings / "g_dp.jsonl")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.endswith(" answers agree; 0 malformed lines\n")


def test_a_difference_is_told_and_exits_1(recordings: Path, tmp_path: Path) -> None:
    truth = json.loads((recordings / "a_simple.truth.json").read_text())
    truth["probes"][0]["blocks"] = {"10.0.0.1:8000": 77}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    checked = check(recordings / "a_simple.jsonl", path)
    assert checked.returncode == 1
    assert "probe 0: 10.0.0.1:8000 rank 0 held 77 blocks, the index says " in checked.stdout


def test_a_missing_file_exits_2(tmp_path: Path) -> None:
    checked = check(tmp_path / "nothing.jsonl")
    assert checked.returncode == 2
    assert "nothing.truth.json" in checked.stderr
