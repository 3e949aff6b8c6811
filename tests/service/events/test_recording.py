from __future__ import annotations

import pytest

from service.events.recording import NotARecording, Recorded, Recording, recorded_line

MESSAGES = [Recorded("a", b"kv@a@m", 0, b"\x00\xff"), Recorded("b", b"", 2**64 - 1, b"")]


def test_what_was_recorded_is_read() -> None:
    assert list(Recording(map(recorded_line, MESSAGES))) == MESSAGES


def test_torn_and_malformed_lines_are_counted_and_passed_over() -> None:
    whole = recorded_line(MESSAGES[0])
    lines = [b"\n", b"{}\n", whole, b"null\n", whole.replace(b'"seq":"', b'"seq":"!'), b'{"pod": "\xff"}\n', whole[:-9]]
    recording = Recording(lines)
    assert list(recording) == [MESSAGES[0]]
    assert (recording.malformed, recording.malformed_lines) == (5, [2, 4, 5, 6, 7])


def test_lines_of_which_none_is_a_message_are_no_recording() -> None:
    with pytest.raises(NotARecording, match="no line of it is a message"):
        list(Recording([b"# a text\n", b"{}\n"]))
    assert list(Recording([])) == list(Recording([b"\n"])) == []
