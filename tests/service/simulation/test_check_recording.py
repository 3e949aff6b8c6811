from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "check_recording.py"


def check(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def counts(checked: subprocess.CompletedProcess[str], name: str) -> list[int]:
    """Rows, equal, different, claimed exact, marked without need, of the table's line of that name."""
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith(f"{name} ")]
    return [int(word) for word in line.removeprefix(name).split()[:5]]


def copy_of(recordings: Path, name: str, folder: Path, **changes: object) -> Path:
    """A recording and its requests, the last of which says something else."""
    shutil.copy(recordings / f"{name}.jsonl", folder)
    rows = [json.loads(line) for line in (recordings / f"{name}.requests.jsonl").read_text().splitlines()]
    rows[-1].update(changes)
    (folder / f"{name}.requests.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder / f"{name}.jsonl"


def test_recordings_that_agree_with_their_engines_exit_0(recordings: Path) -> None:
    checked = check(recordings / "g_dp.jsonl", recordings / "c_lora_salt.jsonl")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert counts(checked, "g_dp") == [50, 50, 0, 0, 0]
    assert counts(checked, "c_lora_salt") == [101, 101, 0, 0, 0]
    assert counts(checked, "2 recordings") == [151, 151, 0, 0, 0]


def test_every_file_of_a_folder_can_be_given(recordings: Path) -> None:
    checked = check(*sorted(recordings.glob("b3_*")), *sorted(recordings.glob("a_*")))
    assert (checked.returncode, checked.stderr) == (0, "")
    assert counts(checked, "b3_copy_left") == [6, 6, 0, 0, 0]
    assert counts(checked, "a_simple") == [23, 23, 0, 0, 0]


def test_a_difference_in_mid_stream_that_claims_to_be_exact_exits_1(recordings: Path, tmp_path: Path) -> None:
    path = copy_of(recordings, "a_simple", tmp_path, cached_tokens=7 * 16)
    checked = check(path)
    assert checked.returncode == 1
    assert "row 3, 10.0.0.1:8000 after 1: of 94 tokens the engine reuses 112, the index says 64; CLAIMED" in (
        checked.stdout
    )
    assert counts(checked, "a_simple") == [3, 2, 1, 1, 0]


def test_tokens_on_the_gpu_are_compared_where_they_are_given(recordings: Path, tmp_path: Path) -> None:
    path = copy_of(recordings, "a_simple", tmp_path, gpu_tokens=48)
    checked = check(path)
    assert checked.returncode == 1
    assert "reuses 64 (48 on the GPU), the index says 64 (64 on the GPU); CLAIMED EXACT" in checked.stdout


def test_a_difference_that_was_marked_exits_0(recordings: Path, tmp_path: Path) -> None:
    path = copy_of(recordings, "f_steps", tmp_path, cached_tokens=1)
    checked = check(path)
    assert checked.returncode == 0
    assert "the engine reuses 1, the index says" in checked.stdout
    assert "; inexact: the engine reports reused blocks" in checked.stdout
    assert counts(checked, "f_steps")[2:] == [1, 0, 0]


def test_answers_that_are_marked_though_none_is_different_are_counted(recordings: Path) -> None:
    checked = check(recordings / "h_window.jsonl")
    assert checked.returncode == 0
    assert counts(checked, "h_window") == [48, 48, 0, 0, 48]


def test_a_truth_file_of_another_name_is_given_after_its_recording(recordings: Path, tmp_path: Path) -> None:
    checked = check(recordings / "e_array_0.9.2.jsonl", recordings / "a_simple.truth.json")
    assert checked.returncode == 0
    assert counts(checked, "e_array_0.9.2") == [20, 20, 0, 0, 0]
    truth = json.loads((recordings / "a_simple.truth.json").read_text())
    truth["probes"][0]["blocks"] = {"10.0.0.1:8000": 77}
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    checked = check(recordings / "e_array_0.9.2.jsonl", path)
    assert checked.returncode == 1
    assert "e_array_0.9.2: probe 1, 10.0.0.1:8000 at the end: of " in checked.stdout


def test_a_recording_without_questions_is_left_out(recordings: Path) -> None:
    checked = check(recordings / "a_simple.jsonl", recordings / "e_array_0.9.2.jsonl")
    assert checked.returncode == 0
    assert "e_array_0.9.2.jsonl is left out: there is neither " in checked.stderr
    assert check(recordings / "e_array_0.9.2.jsonl").returncode == 2


def test_a_question_after_a_batch_that_is_not_recorded_exits_2(recordings: Path, tmp_path: Path) -> None:
    path = copy_of(recordings, "a_simple", tmp_path, before={"10.0.0.1:8000": 99})
    checked = check(path)
    assert checked.returncode == 2
    assert "row 3 is asked after batch 99 of 10.0.0.1:8000, which is not there" in checked.stderr


def test_a_missing_file_exits_2(tmp_path: Path) -> None:
    checked = check(tmp_path / "nothing.jsonl")
    assert checked.returncode == 2
    assert "nothing.jsonl: no such file" in checked.stderr
