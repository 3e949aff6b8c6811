from __future__ import annotations

import resource
from pathlib import Path

import pytest

from service.events.recording import Recorded, Recording
from service.events.recording_file import RecordingFile


def message(number: int) -> Recorded:
    return Recorded("pod", b"kv@pod@m", number, bytes(range(100)))


def read(path: Path) -> Recording:
    with path.open("rb") as lines:
        return Recording(lines.readlines())


def test_what_is_written_is_on_disk_at_once_and_reads_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new.jsonl"
    with RecordingFile(path) as file:
        for number in range(3):
            file.write(message(number))
            assert list(read(path)) == [message(earlier) for earlier in range(number + 1)]
        assert file.messages == 3
        assert file.bytes == path.stat().st_size


def test_a_file_that_is_there_is_not_overwritten_but_may_be_gone_on_in(tmp_path: Path) -> None:
    path = tmp_path / "there.jsonl"
    with RecordingFile(path) as file:
        file.write(message(0))
    with pytest.raises(FileExistsError):
        RecordingFile(path)
    with RecordingFile(path, append=True) as file:
        file.write(message(1))
    assert list(read(path)) == [message(0), message(1)]


def test_going_on_after_a_torn_last_line_loses_only_that_line(tmp_path: Path) -> None:
    path = tmp_path / "torn.jsonl"
    with RecordingFile(path) as file:
        file.write(message(0))
        file.write(message(1))
    path.write_bytes(path.read_bytes()[:-20])
    with RecordingFile(path, append=True) as file:
        file.write(message(2))
    recording = read(path)
    assert list(recording) == [message(0), message(2)]
    assert recording.malformed_lines == [2]


def test_a_disk_that_is_full_leaves_no_half_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "full.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RecordingFile(path) as file:
        file.write(message(0))
        # A file that may not grow fails in the middle of a write, as one on a full disk does. Python ignores SIGXFSZ.
        resource.setrlimit(resource.RLIMIT_FSIZE, (file.bytes + 30, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                file.write(message(1))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.stat().st_size == file.bytes
    recording = read(path)
    assert list(recording) == [message(0)]
    assert recording.malformed == 0
