from __future__ import annotations

from pathlib import Path

import pytest

from scripts.truth import Truth
from service.events.recording import Recorded, Recording
from service.index.memory import MemoryIndex
from service.offline.feed import Feed

WHOLE = ["a_simple", "b3_copy_left", "c_lora_salt", "d_int", "d_bytes", "d_bytes_xxhash_cbor", "f_steps", "g_dp"]


def fed(path: Path, model: str) -> tuple[MemoryIndex, Feed]:
    index = MemoryIndex(max_blocks=1_000_000)
    feed = Feed(index, model)
    with path.open("rb") as lines:
        for message in Recording(lines):
            feed.apply(message)
    return index, feed


@pytest.mark.parametrize("name", WHOLE)
def test_the_index_that_a_recording_gives_agrees_with_what_the_engine_answered(recordings: Path, name: str) -> None:
    truth = Truth.read(recordings / f"{name}.truth.json")
    index, feed = fed(recordings / f"{name}.jsonl", truth.model)
    assert list(truth.differences(index)) == []
    assert {feed.rank(name): last for name, last in feed.last_sequences.items()} == truth.last_sequence


def test_each_rank_of_a_pod_has_a_name_and_a_sequence_of_its_own(recordings: Path) -> None:
    _, feed = fed(recordings / "g_dp.jsonl", "unused")
    assert feed.last_sequences == {"10.0.0.1:8000": 5, "10.0.0.1:8000#dp1": 3}
    rank = feed.rank("10.0.0.1:8000#dp1")
    assert rank is not None
    assert (rank.pod, rank.number) == ("10.0.0.1:8000", 1)
    assert feed.rank("10.0.0.9:8000") is None


def test_a_message_that_cannot_be_read_is_counted_and_the_rest_goes_on() -> None:
    feed = Feed(MemoryIndex(max_blocks=10), "m")
    feed.apply(Recorded("pod", b"", 0, b"\xc1"))
    feed.apply(Recorded("pod", b"", 1, b"\x93\xcb\x41\xda\xc1\x09\x47\xc0\x93\x7c\x90\x00"))
    assert feed.statistics.skipped.total() == 1
    assert feed.statistics.batches_applied == 1


def test_where_a_topic_says_nothing_the_recording_names_the_pod() -> None:
    feed = Feed(MemoryIndex(max_blocks=10), "some/model")
    feed.apply(Recorded("10.0.0.7:8000", b"", 0, b"\x93\xcb\x41\xda\xc1\x09\x47\xc0\x93\x7c\x90\x00"))
    rank = feed.rank("10.0.0.7:8000")
    assert rank is not None
    assert (rank.pod, rank.model) == ("10.0.0.7:8000", "some/model")
