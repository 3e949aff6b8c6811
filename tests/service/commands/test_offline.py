from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path

import pytest

from service.commands.offline import main
from tests.service.commands.conftest import Tool

REQUESTS = ["a_simple", "b3_copy_left", "c_lora_salt", "d_int", "d_bytes", "d_bytes_xxhash_cbor", "f_steps", "g_dp"]


@pytest.mark.parametrize("name", REQUESTS)
def test_each_request_of_a_recording_finds_what_the_engine_found_at_that_moment(
    recordings: Path, tool: Tool, name: str
) -> None:
    requests = recordings / f"{name}.requests.jsonl"
    count = len(requests.read_text().splitlines())
    done = tool("offline", recordings / f"{name}.jsonl", "--prompts", requests)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{count} of {count} agree with the engines" in done.stdout
    assert "does not reach the moment" not in done.stdout


def test_the_probes_of_a_truth_file_agree_at_the_end(recordings: Path, tool: Tool, tmp_path: Path) -> None:
    truth = json.loads((recordings / "c_lora_salt.truth.json").read_text())
    prompts = tmp_path / "probes.jsonl"
    prompts.write_text("".join(json.dumps(probe) + "\n" for probe in truth["probes"]))
    done = tool("offline", recordings / "c_lora_salt.jsonl", "--prompts", prompts, "--json", "--block-size", 16)
    *answers, total = map(json.loads, done.stdout.splitlines())
    assert total["kind"] == "summary"
    assert total["compared"] == len(truth["probes"]) == len(answers)
    assert total["different"] == 0
    for answer, probe in zip(answers, truth["probes"], strict=True):
        assert (answer["scores"] or {}) == {pod: blocks for pod, blocks in probe["blocks"].items() if blocks}
    assert done.returncode == 0


def test_messages_are_printed_as_json_one_a_line(recordings: Path, tool: Tool) -> None:
    done = tool("offline", recordings / "a_simple.jsonl", "--messages")
    assert done.returncode == 0
    messages = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(messages) == len((recordings / "a_simple.jsonl").read_text().splitlines())
    assert messages[0]["batch"][1][0]["type"] == "BlockStored"


def test_an_answer_that_differs_from_the_engines_is_shown_and_makes_the_exit_code_1(
    recordings: Path, tool: Tool, tmp_path: Path
) -> None:
    (first, *_) = json.loads((recordings / "d_int.truth.json").read_text())["probes"]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({**first, "blocks": {"10.0.0.1:8000": 99}}))
    done = tool("offline", recordings / "d_int.jsonl", "--prompts", prompts)
    assert done.returncode == 1
    assert "10.0.0.1:8000 had 99 blocks, the index has" in done.stdout
    assert "0 of 1 agree" in done.stdout


def test_malformed_lines_are_told_by_number_and_a_torn_last_one_does_no_harm(
    recordings: Path, tool: Tool, tmp_path: Path
) -> None:
    lines = (recordings / "a_simple.jsonl").read_bytes().splitlines(keepends=True)
    torn = tmp_path / "torn.jsonl.gz"
    torn.write_bytes(gzip.compress(b"".join([lines[0], b"no json\n", *lines[1:], lines[0][:40]])))
    done = tool("offline", torn)
    assert done.returncode == 0
    assert "3 messages" in done.stdout
    assert "malformed lines skipped: 2 (line 2, 5)" in done.stdout


def test_texts_and_chats_are_scored_by_the_built_in_model(recordings: Path, tool: Tool, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    chat = {"messages": [{"role": "user", "content": "Hello"}], "model": "builtin/demo"}
    prompts.write_text("\n".join(json.dumps(one) for one in ({"prompt": "Hello", "after": 1}, chat)))
    done = tool("offline", recordings / "a_simple.jsonl", "--prompts", prompts, "--model", "builtin/demo", "--json")
    first, second, _ = map(json.loads, done.stdout.splitlines())
    assert (first["line"], first["scores"]) == (1, None)
    assert second["tokens"] > first["tokens"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("no-such-file",), "No such file"),
        (("README.md",), "README.md cannot be read: no line of it is a message of a recording"),
        (("README.md", "--messages"), "no line of it is a message of a recording"),
        (("tests",), "tests cannot be read: Is a directory"),
        (("tests/recordings/a_simple.jsonl", "--prompts", "no-such-file"), "No such file"),
        (("tests/recordings/a_simple.jsonl", "--prompts", "x", "--plot", "y"), "without --prompts"),
        (("tests/recordings/a_simple.jsonl", "--prefixes", "0"), "1 or more"),
        ((), "required: events"),
    ],
)
def test_errors_are_reported_without_a_traceback(tool: Tool, arguments: tuple[str, ...], said: str) -> None:
    done = tool("offline", *arguments)
    assert done.returncode in {1, 2}
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_analysis_is_one_object_for_machines(recordings: Path, tool: Tool, tmp_path: Path) -> None:
    done = tool("offline", recordings / "g_dp.jsonl", "--json", "--plot", tmp_path / "plots", "--plot-format", "svg")
    (analysis,) = map(json.loads, done.stdout.splitlines())
    assert analysis["kind"] == "analysis"
    assert analysis["messages"] == 10
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == [
        "blocks.svg",
        "lifetimes.svg",
        "prefixes.svg",
        "rates.svg",
        "sharing.svg",
    ]


def test_without_matplotlib_the_remedy_is_named(
    recordings: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "service.offline.plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main([str(recordings / "a_simple.jsonl"), "--plot", "anywhere"], {}) == 1
    assert "pip install matplotlib" in capsys.readouterr().err


def test_a_compressed_recording_that_is_cut_off_is_reported_after_its_messages(
    recordings: Path, tool: Tool, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress((recordings / "a_simple.jsonl").read_bytes())[:-20])
    done = tool("offline", cut, "--messages")
    assert done.returncode == 1
    assert json.loads(done.stdout.splitlines()[0])["pod"]
    assert "cut.jsonl.gz cannot be read: Compressed file ended" in done.stderr
    assert "Traceback" not in done.stderr
