from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.doctor.finding import Severity
from orchestrator.doctor.listening import finding
from orchestrator.launch import Launch
from service.contract.listening import Heard

_HEARD = Heard(
    address="tcp://10.0.0.7:5557",
    connected=True,
    messages=12,
    topics=["kv@10.0.0.7:8000@org/model"],
    pods=["10.0.0.7:8000"],
    models=["org/model"],
    block_sizes=[16],
    hash_bits=[64],
    replay="tcp://10.0.0.7:5558",
    replay_from=0,
)
_LAUNCH = Launch(zmq_endpoint="tcp://10.0.0.7:5557,replay=tcp://10.0.0.7:5558")


def test_what_comes_is_summed_up() -> None:
    found = finding(_HEARD, _LAUNCH)
    assert found.severity is Severity.OK
    assert found.text == (
        "topic 'kv@10.0.0.7:8000@org/model', 12 messages, model org/model, block size 16, hash 64 bits, "
        "replay answers from 0"
    )


@pytest.mark.parametrize(
    ("heard", "said", "remedy"),
    [
        (replace(_HEARD, messages=0, topics=[]), "connected, but no message in 3 s", "enable_kv_cache_events"),
        (replace(_HEARD, connected=False, messages=0), "no ZeroMQ publisher answers", "--kv-events-config"),
        (replace(_HEARD, unreadable="is no list"), "a message cannot be read: is no list", "endpoint"),
        (replace(_HEARD, topics=["events"]), "topic 'events' does not start with 'kv@'", "pod=HOST:PORT"),
        (replace(_HEARD, replay_problem="does not answer"), "replay socket gives nothing", "replay_endpoint"),
        (replace(_HEARD, problem="cannot connect"), "cannot connect", "--zmq-endpoint"),
    ],
)
def test_what_is_missing_is_told_with_what_to_change(heard: Heard, said: str, remedy: str) -> None:
    found = finding(heard, _LAUNCH)
    assert found.severity is Severity.WARNING
    assert said in found.text
    assert remedy in found.remedy


def test_a_topic_that_names_nobody_is_fine_where_the_endpoint_names_the_pod() -> None:
    launch = Launch(zmq_endpoint="tcp://10.0.0.7:5557,pod=10.0.0.7:8000")
    assert finding(replace(_HEARD, topics=[""]), launch).severity is Severity.OK
