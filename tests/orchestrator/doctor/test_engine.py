from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator.doctor.engine import findings, shared_names
from orchestrator.doctor.engine_command import engine_command
from orchestrator.doctor.finding import Finding, Severity
from service.contract.examined import Examined, read_examined, write_examined
from service.contract.listening import Heard
from service.contract.pods import parse_pods
from tests.command import Commands, free_port

(POD,) = parse_pods("http://10.0.0.7:8000")
SOURCE = Heard(
    address="tcp://10.0.0.7:5557",
    connected=True,
    messages=2,
    topics=["kv@10.0.0.7:8000@m"],
    pods=["10.0.0.7:8000"],
    models=["m"],
    block_sizes=[16],
    hash_bits=[64],
    replay="tcp://10.0.0.7:5558",
    replay_from=0,
)
RIGHT = Examined(
    pod=POD.name,
    url=POD.url,
    engine="vllm",
    version="0.33.0",
    models=["m"],
    root="org/model",
    tells_sources=True,
    sources=[SOURCE],
    tells_reuse=True,
    reused_tokens=32,
    hash_algorithm="sha256",
)


def warnings(examined: Examined) -> list[Finding]:
    return [found for found in findings(POD, examined) if found.severity is not Severity.OK]


def without(**changed: object) -> Examined:
    return replace(RIGHT, sources=[replace(SOURCE, **changed)])  # type: ignore[arg-type]


def test_the_tool_and_doctor_understand_each_other() -> None:
    assert read_examined(write_examined(RIGHT)) == RIGHT


def test_an_engine_with_all_that_is_needed_has_no_warning() -> None:
    engine, events, reuse = findings(POD, RIGHT)
    assert engine.text == "vLLM 0.33.0 serves m (loaded from org/model)"
    assert events.text == (
        "topic 'kv@10.0.0.7:8000@m', block size 16, hashes of 64 bits (sha256), whose algorithm and seed do not "
        "matter, replay at tcp://10.0.0.7:5558"
    )
    assert reuse.text == "32 tokens of a repeated prompt, as its usage tells"
    assert warnings(RIGHT) == []


@pytest.mark.parametrize(
    ("examined", "said", "remedy"),
    [
        (
            replace(RIGHT, sources=[]),
            "publishes none (KV events are off, or their publisher is null)",
            "command line below",
        ),
        (replace(RIGHT, sources=[], tells_sources=False), "does not say where they are", ",events=tcp://10.0.0.7:5557"),
        (replace(RIGHT, engine=None), "neither vLLM nor SGLang", ",events=tcp://HOST:PORT"),
        (replace(RIGHT, version="0.8.5"), "vLLM 0.8.5 publishes no KV events", "0.9.0"),
        (replace(RIGHT, version="0.13.2+cpu"), "LoRA", "0.14.0"),
        (replace(RIGHT, version="0.16.0"), "salts", "0.17.0"),
        (without(replay=None), "no replay socket", "replay_endpoint"),
        (without(replay_problem="no answer"), "tcp://10.0.0.7:5558 gives nothing: no answer", "port"),
        (without(connected=False), "nothing listens there", "published ports"),
        (without(connected=False, address="tcp://10.9.9.9:5557"), "the host is wrong", "--zmq-endpoint 'tcp://*:5557'"),
        (without(connected=False, address="tcp://127.0.0.1:5557"), "not the engine's", "tcp://*:5557"),
        (without(messages=0), "its requests made no event", "prefix caching"),
        (without(unreadable="is no list"), "cannot be read: is no list", "port"),
        (without(models=["other"]), "names the model other, but requests name m", "command line below"),
        (replace(RIGHT, tells_reuse=False), "does not tell cached_tokens", "--enable-prompt-tokens-details"),
        (replace(RIGHT, tells_reuse=False, engine="sglang"), "does not tell cached_tokens", "--enable-cache-report"),
        (replace(RIGHT, reused_tokens=0), "prefix caching off", "--no-enable-prefix-caching"),
        (replace(RIGHT, prefix_caching=False), "prefix caching is off", "--no-enable-prefix-caching"),
        (replace(RIGHT, tells_reuse=None, unanswered="answered with 503"), "answered with 503", "by hand"),
        (replace(RIGHT, problem="connection refused", sources=[]), "connection refused", "--pod"),
    ],
)
def test_each_fault_is_told_with_what_to_change(examined: Examined, said: str, remedy: str) -> None:
    (found,) = warnings(examined)
    assert said in found.text
    assert remedy in found.remedy


@pytest.mark.parametrize(
    ("examined", "severity"),
    [
        (replace(RIGHT, problem="connection refused", sources=[]), Severity.PROBLEM),
        (replace(RIGHT, sources=[]), Severity.PROBLEM),
        (replace(RIGHT, sources=[], tells_sources=False), Severity.PROBLEM),
        (without(connected=False), Severity.PROBLEM),
        (without(unreadable="is no list"), Severity.PROBLEM),
        (without(messages=0), Severity.PROBLEM),
        (replace(RIGHT, sources=[SOURCE, replace(SOURCE, messages=0)]), Severity.WARNING),
        (replace(without(messages=0), tells_reuse=None, unanswered="answered with 503"), Severity.WARNING),
        (without(replay=None), Severity.WARNING),
        (replace(RIGHT, tells_reuse=False), Severity.WARNING),
    ],
)
def test_only_what_leaves_the_service_without_engine_or_events_is_a_problem(
    examined: Examined, severity: Severity
) -> None:
    assert {found.severity for found in warnings(examined)} == {severity}


def test_names_of_another_network_and_events_that_come_otherwise_are_only_warned_of() -> None:
    silent = replace(RIGHT, problem="name or service not known", sources=[])
    (found, *_) = findings(POD, silent, resolved_here=False)
    assert found.severity is Severity.WARNING
    faults = [one for one in findings(POD, replace(RIGHT, sources=[]), events_elsewhere=True) if one.remedy]
    assert [one.severity for one in faults] == [Severity.WARNING]


def test_a_version_that_is_no_release_is_not_judged() -> None:
    assert warnings(replace(RIGHT, version="0.1.dev1+g0")) == []


def test_a_topic_that_names_another_pod_spoils_only_where_the_engine_does_not_tell_it() -> None:
    other = replace(SOURCE, pods=["vllm-0"])
    assert warnings(replace(RIGHT, sources=[other])) == []
    (found,) = warnings(replace(RIGHT, sources=[other], tells_sources=False))
    assert "count for another pod" in found.text
    assert "name=vllm-0" in found.remedy


def test_two_engines_with_one_name_are_told() -> None:
    twin = replace(RIGHT, pod="10.0.0.8:8000")
    (found,) = shared_names([RIGHT, twin])
    assert found.text.startswith("10.0.0.7:8000 and 10.0.0.8:8000 publish under one name, 10.0.0.7:8000")
    assert list(shared_names([RIGHT])) == []


def test_the_command_line_keeps_the_engines_model_and_ports() -> None:
    moved = replace(SOURCE, address="tcp://10.0.0.7:6000", replay="tcp://10.0.0.7:6100")
    words = shlex.split(engine_command(POD, replace(RIGHT, sources=[moved]), 0, "MODEL"))
    assert words[:7] == ["vllm", "serve", "org/model", "--port", "8000", "--served-model-name", "m"]
    assert words[7:9] == ["--enable-prompt-tokens-details", "--kv-events-config"]
    assert json.loads(words[9]) == {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "topic": "kv@10.0.0.7:8000@m",
        "endpoint": "tcp://*:6000",
        "replay_endpoint": "tcp://*:6100",
    }


def test_the_command_line_of_sglang_has_its_own_options() -> None:
    words = shlex.split(engine_command(POD, replace(RIGHT, engine="sglang", root="m"), 0, "MODEL"))
    assert words[:7] == ["python", "-m", "sglang.launch_server", "--model-path", "m", "--port", "8000"]
    assert words[7:9] == ["--enable-cache-report", "--kv-events-config"]
    assert "enable_kv_cache_events" not in json.loads(words[9])


def test_engines_on_one_host_get_ports_that_do_not_meet() -> None:
    configs = [
        json.loads(shlex.split(engine_command(POD, replace(RIGHT, sources=[]), number, "MODEL"))[-1])
        for number in range(3)
    ]
    assert len({config[name] for config in configs for name in ("endpoint", "replay_endpoint")}) == 6


def test_an_engine_that_does_not_answer_gets_the_model_that_the_operator_named() -> None:
    silent = Examined(POD.name, POD.url, problem="connection refused")
    assert shlex.split(engine_command(POD, silent, 0, "org/wanted"))[:3] == ["vllm", "serve", "org/wanted"]


def test_the_doctor_prints_the_command_line_for_an_engine_without_events(tmp_path: Path) -> None:
    kvcache = Commands(tmp_path)
    port = free_port()
    try:
        without = ("--without", "events", "--without", "prompt-tokens-details")
        kvcache.start("simulate", "--pods", "1", "--port", str(port), *without).wait_for("Serve them")
        options = ("--runtime", "process", "--port", str(free_port()), "--pod", f"http://127.0.0.1:{port}")
        found = kvcache.run("doctor", *options)
    finally:
        kvcache.close()
    assert found.code == 1
    assert f"problem  events of 127.0.0.1:{port}: it publishes none" in found.output
    assert f"command line of 127.0.0.1:{port}: vllm serve builtin/demo --port {port} " in found.output


def test_that_an_engine_does_not_answer_is_said_once(tmp_path: Path) -> None:
    pod = f"127.0.0.1:{free_port()}"
    kvcache = Commands(tmp_path)
    try:
        options = ("--runtime", "process", "--port", str(free_port()), "--pod", f"http://{pod}")
        found = kvcache.run("doctor", *options)
    finally:
        kvcache.close()
    about = [line for line in found.output.splitlines() if pod in line]
    faults = [line for line in about if line.startswith(("warning", "problem"))]
    assert [line.startswith("problem  pod: nothing answers") for line in faults] == [True]
    assert found.code == 1
    assert any(line.startswith(f"ok       command line of {pod}: vllm serve ") for line in about)
