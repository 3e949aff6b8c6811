from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.doctor.hub import check_model
from orchestrator.errors import Problem, UsageError
from orchestrator.launch import Launch, parse_environment, parse_memory
from orchestrator.options import LaunchOptions
from orchestrator.runtimes.base import MODEL_LABEL
from orchestrator.runtimes.process import Processes
from orchestrator.workload import memory_limit, prepare


@pytest.mark.parametrize(
    ("text", "size"),
    [("1073741824", 1 << 30), ("512m", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("65536KB", 64 << 20)],
)
def test_memory_is_a_number_with_a_unit(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1g", "1x", "g"])
def test_memory_that_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--memory"):
        parse_memory(text)


def test_a_variable_has_a_value_or_takes_that_of_this_host() -> None:
    host = {"LOG_FORMAT": "json"}
    assert parse_environment(["MAX_MODELS=3", "LOG_FORMAT", "A=b=c", "EMPTY="], host) == {
        "MAX_MODELS": "3",
        "LOG_FORMAT": "json",
        "A": "b=c",
        "EMPTY": "",
    }


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("NOT_SET", "is not set here"),
        ("=x", "is not KEY=VALUE"),
        ("HF_TOKEN=x", "HF_TOKEN"),
        ("HTTP_PORT=1", "HTTP_PORT"),
    ],
)
def test_a_variable_that_cannot_be_given_this_way_is_refused_with_the_way(pair: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_environment([pair], {})


def test_the_token_is_not_shown_when_a_launch_is() -> None:
    assert "secret" not in repr(Launch(token="secret"))  # noqa: S106 - so it says


@pytest.mark.parametrize("name", ["", "-x", "a b", "a/b"])
def test_a_name_that_no_runtime_takes_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        Launch(name=name)


def test_folders_that_are_not_there_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--models-dir"):
        Launch(models_dir=tmp_path / "none")
    with pytest.raises(UsageError, match="--ca-bundle"):
        Launch(ca_bundle=tmp_path / "none")


def test_models_and_the_hubs_cache_are_two_folders(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="the same folder"):
        Launch(models_dir=tmp_path, hf_cache=tmp_path)


def test_files_of_tls_need_a_certificate(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    with pytest.raises(UsageError, match="--tls-key"):
        Launch(tls_key=file)
    file.touch()
    with pytest.raises(UsageError, match="needs --tls-cert"):
        Launch(tls_key=file)


@pytest.mark.parametrize(
    ("address", "environment", "is_open"),
    [
        ("127.0.0.1", {}, False),
        ("::1", {}, False),
        ("0.0.0.0", {}, True),
        ("192.0.2.7", {}, True),
        ("0.0.0.0", {"API_KEYS": "a:read:sk-0123456789abcdef"}, False),
        ("0.0.0.0", {"API_KEYS_FILE": __file__}, False),
        ("0.0.0.0", {"API_KEYS": ""}, True),
    ],
)
def test_a_service_is_open_when_other_machines_need_no_key(
    address: str, environment: dict[str, str], is_open: bool
) -> None:
    assert Launch(publish_address=address, environment=environment).is_open_to_others is is_open


@pytest.mark.parametrize(
    ("text", "rootless", "limit"),
    [(None, False, 4 << 30), (None, True, None), ("2g", True, 2 << 30), ("2g", False, 2 << 30), ("none", False, None)],
)
def test_a_container_has_a_memory_limit_unless_none_is_wanted(
    text: str | None, rootless: bool, limit: int | None
) -> None:
    assert memory_limit(parse_memory(text) if text else None, rootless=rootless) == limit


def test_pods_name_their_event_sources_so_that_none_is_the_default_beside_them(tmp_path: Path) -> None:
    file = tmp_path / "pods.yaml"
    file.touch()
    assert LaunchOptions().launch().zmq_endpoint == "tcp://localhost:5557"
    assert LaunchOptions(pod=["http://10.0.0.7:8000"]).launch().zmq_endpoint == ""
    assert LaunchOptions(env=[f"PODS_FILE={file}"]).launch().zmq_endpoint == ""
    assert LaunchOptions(discovery=[f"file:{file}"]).launch().zmq_endpoint == ""
    both = LaunchOptions(pod=["http://10.0.0.7:8000"], zmq_endpoint="tcp://localhost:5557")
    assert both.launch().zmq_endpoint == "tcp://localhost:5557"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"environment": {"PODS_FILE": "none"}}, "PODS_FILE: .*/none does not exist"),
        ({"environment": {"API_KEYS_FILE": "none"}}, "API_KEYS_FILE: .*/none does not exist"),
        ({"environment": {"BOOTSTRAP_KEY_FILE": "~no-such-user/key"}}, "names a user who does not exist"),
        ({"pods": "http://a:1,key_file=none"}, "--pod http://a:1, key_file: .*/none does not exist"),
        ({"pods": "http://a:1,key_file=."}, "--pod http://a:1, key_file: .* is a folder"),
        ({"discovery": "file:none"}, "--discovery: .*/none does not exist"),
        (
            {"environment": {"SHARED_STATE": "valkey://a?password_file=none"}},
            "SHARED_STATE, password_file: .*/none does not exist",
        ),
        ({"zmq_endpoint": "tcp://a:1,curve=none"}, "--zmq-endpoint tcp://a:1, curve: .*/none does not exist"),
    ],
)
def test_a_named_file_that_is_not_there_is_refused_by_the_option_that_names_it(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        Launch(**options)


def test_relative_paths_are_those_of_the_callers_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key").touch()
    monkeypatch.chdir(tmp_path)
    launch = Launch(
        pods="http://a:1,key_file=key",
        discovery="file:key",
        zmq_endpoint="tcp://a:1,curve=key",
        environment={"PODS_FILE": "key", "LOG_FORMAT": "json", "SHARED_STATE": "valkeys://:pass@localhost/1?ca=key"},
    )
    assert launch.settings == {
        "PODS_FILE": f"{tmp_path}/key",
        "LOG_FORMAT": "json",
        "SHARED_STATE": f"valkeys://:pass@localhost/1?ca={tmp_path}/key",
    }
    assert {file.path for file in launch.named_files} == {tmp_path / "key"}
    assert launch.pod_entries[0].key_file == launch.endpoints[0].curve == launch.sources[0].place == f"{tmp_path}/key"


def test_a_model_without_a_name_is_refused() -> None:
    with pytest.raises(UsageError, match="--model: the name is empty"):
        Launch(model=" ")


def test_without_a_named_model_requests_get_what_the_pods_serve() -> None:
    pods = ["http://10.0.0.7:8000"]
    launch = LaunchOptions(pod=pods).launch()
    started = prepare(launch, Processes(), dry=True)
    assert launch.model_is_of_pods
    assert "MODEL_NAME" not in started.environment
    assert MODEL_LABEL not in started.labels
    assert check_model(launch).text == "none is named, so that requests get what the pods serve"

    named = prepare(LaunchOptions(pod=pods, model="org/m").launch(), Processes(), dry=True)
    assert named.environment["MODEL_NAME"] == named.labels[MODEL_LABEL] == "org/m"
    alone = prepare(LaunchOptions().launch(), Processes(), dry=True)
    assert alone.environment["MODEL_NAME"] == alone.labels[MODEL_LABEL] == Launch().model


def test_a_child_process_is_refused_engines_in_containers() -> None:
    launch = LaunchOptions(discovery=["containers"]).launch()
    assert launch.follows_containers and launch.forwards
    with pytest.raises(Problem, match="does not join the networks of containers"):
        prepare(launch, Processes(), dry=True)
