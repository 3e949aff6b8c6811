from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.doctor.finding import Severity
from orchestrator.doctor.parity import check_parity, finding
from orchestrator.launch import Launch
from service.contract.compared import Compared, read_compared, write_compared
from tests.command import free_port

EQUAL = Compared("m", "equal", compared=42)
DIFFERS = Compared(
    "m",
    "differs",
    compared=42,
    differing=["hello", "tools"],
    request="hello",
    position=3,
    here="<a>",
    engine="<b>",
    remedy="Use the other template",
)
UNKNOWN = Compared("m", "unknown", reason="no tokenizer", remedy="Say where it is")


def test_the_tool_and_doctor_understand_each_other() -> None:
    assert read_compared(write_compared("http://a", "1", [EQUAL, DIFFERS, UNKNOWN])) == [
        Compared("m", "equal", compared=42, differing=[]),
        DIFFERS,
        Compared("m", "unknown", reason="no tokenizer", remedy="Say where it is", differing=[]),
    ]


def test_equal_tokens_are_fine() -> None:
    assert finding("a:1", EQUAL).severity is Severity.OK


def test_other_tokens_are_a_warning_with_both_texts() -> None:
    found = finding("a:1", DIFFERS)
    assert found.severity is Severity.WARNING
    assert "differ for 2 of 42 requests: 'hello' from token 3 on, '<a>' here, '<b>' there" in found.text
    assert found.remedy == "Use the other template."


def test_unknown_tokens_are_a_warning_with_the_reason() -> None:
    found = finding("a:1", UNKNOWN)
    assert (found.severity, found.remedy) == (Severity.WARNING, "Say where it is.")
    assert "no tokenizer" in found.text


def test_a_pod_that_does_not_answer_is_a_warning_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    (found,) = check_parity(Launch(pods=f"http://127.0.0.1:{free_port()}"))
    assert found.severity is Severity.WARNING
    assert "Connect call failed" in found.text
    assert found.remedy == "Start the engine, or correct --pod."
