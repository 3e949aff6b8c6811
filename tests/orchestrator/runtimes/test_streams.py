from __future__ import annotations

from orchestrator.runtimes.streams import lines


def test_lines_are_put_together_from_pieces_of_any_size() -> None:
    text = "first\nsecond – ü\r\n\nlast"
    for size in (1, 2, 3, 100):
        data = text.encode()
        pieces = (data[start : start + size] for start in range(0, len(data), size))
        assert list(lines(pieces)) == ["first", "second – ü", "", "last"]


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    assert list(lines([b"a\xffb\n", b"\xc3"])) == ["a�b", "�"]
