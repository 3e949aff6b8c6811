from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
import pytest

from service.events.recording import Recorded
from service.index.memory import MemoryIndex
from service.offline.feed import Feed
from service.offline.schedule import Schedule, TooFarApart


def messages(*named: str) -> Iterator[Recorded]:
    """`a0` is the message numbered 0 of pod a."""
    for name in named:
        yield Recorded(name[0], b"", int(name[1:]), msgspec.msgpack.encode([1.0, [], 0]))


def scheduled(named: Iterable[str], max_held: int = 100) -> tuple[Schedule, Feed]:
    feed = Feed(MemoryIndex(max_blocks=10), "m")
    return Schedule(messages(*named), feed, max_held), feed


def test_messages_of_another_pod_are_held_back_until_their_moment() -> None:
    made, feed = scheduled(["a0", "a1", "b0", "b1", "a2"])
    assert made.reach({"a": 0, "b": 0})
    assert feed.last_sequences == {"a": 0, "b": 0}
    assert made.reach({"a": 1, "b": 1})
    assert feed.last_sequences == {"a": 1, "b": 1}
    made.finish()
    assert feed.last_sequences == {"a": 2, "b": 1}


def test_before_the_first_message_nothing_is_applied() -> None:
    made, feed = scheduled(["a0", "b0"])
    assert made.reach({"a": -1, "b": -1})
    assert feed.last_sequences == {}


def test_messages_held_back_keep_their_order() -> None:
    made, feed = scheduled(["a0", "a1", "a2", "b0"])
    assert made.reach({"a": 0, "b": 0})
    assert made.reach({"a": 2, "b": 0})
    assert feed.statistics.gaps == feed.statistics.batches_repeated == 0


def test_a_moment_in_the_past_or_beyond_the_end_is_not_reached() -> None:
    made, _ = scheduled(["a0", "a1"])
    assert made.reach({"a": 1})
    assert not made.reach({"a": 0})
    assert not made.reach({"a": 9})


def test_a_number_of_messages_is_a_moment_too() -> None:
    made, feed = scheduled(["a0", "b0", "a1"])
    assert made.reach_message(2)
    assert feed.last_sequences == {"a": 0, "b": 0}
    assert not made.reach_message(1)
    assert not made.reach_message(4)
    assert feed.last_sequences == {"a": 1, "b": 0}


def test_the_number_of_messages_held_back_is_limited() -> None:
    made, _ = scheduled(f"a{number}" for number in range(1000))
    with pytest.raises(TooFarApart, match="100 messages"):
        made.reach({"a": 0, "b": 0})
