from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from service.contract.endpoints import Endpoint
from service.contract.settings import Settings, SettingsError, describe
from service.contract.tier_weights import TierWeights


def read(**environment: str) -> Settings:
    return Settings.from_environment(environment)


def test_an_empty_environment_gives_the_defaults_that_the_original_promises() -> None:
    settings = read()
    assert settings.model_name == "ibm-granite/granite-3.3-2b-instruct"
    assert settings.zmq_endpoint == (Endpoint("tcp://localhost:5557"),)
    assert settings.zmq_topic == "kv@"
    assert settings.http_port == 8080
    assert settings.pool_concurrency == 4
    assert settings.block_size == 256
    assert settings.container_env is False


def test_variables_that_are_not_settings_are_ignored() -> None:
    assert read(PATH="/bin", http_port="no number") == Settings()


@pytest.mark.parametrize(
    ("name", "value", "parsed"),
    [
        ("CONTAINER_ENV", "TRUE", True),
        ("TRUST_REQUEST_CHAT_TEMPLATE", "off", False),
        ("MODEL_NAME", " org/name ", "org/name"),
        ("MODELS_DIR", "/srv/models", Path("/srv/models")),
        ("HTTP_PORT", "0", 0),
        ("HTTP_PORT", " 65535 ", 65535),
        ("MAX_BODY_BYTES", "1048576", 1 << 20),
        ("MAX_BODY_BYTES", "2k", 2 << 10),
        ("MAX_BODY_BYTES", "64MiB", 64 << 20),
        ("MAX_BODY_BYTES", "1 gb", 1 << 30),
        ("MAX_BODY_BYTES", "1.5GiB", 3 << 29),
        ("TOKEN_CACHE_BYTES", "0", 0),
        ("POD_TTL", "5m", 300.0),
        ("POD_TTL", "1.5h", 5400.0),
        ("HEADER_TIMEOUT", "250ms", 0.25),
        ("HEADER_TIMEOUT", "10", 10.0),
        ("LOG_FORMAT", "JSON", "json"),
        ("LOG_LEVEL", "warning", "warning"),
        ("TIER_WEIGHTS", "", TierWeights()),
        ("TIER_WEIGHTS", "cpu=0.9", TierWeights(cpu=0.9)),
        ("TIER_WEIGHTS", "gpu = 1, storage=0", TierWeights(gpu=1.0, storage=0.0)),
        ("ZMQ_TOPIC", "", ""),
        (
            "ZMQ_ENDPOINT",
            "tcp://a:1,pod=a:8000, tcp://*:2",
            (Endpoint("tcp://a:1", pod="a:8000"), Endpoint("tcp://*:2")),
        ),
    ],
)
def test_a_variable_is_read(name: str, value: str, parsed: object) -> None:
    assert getattr(read(**{name: value}), name.lower()) == parsed


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CONTAINER_ENV", "maybe"),
        ("MODEL_NAME", "  "),
        ("MODELS_DIR", ""),
        ("MODELS_DIR", "~nobody-of-that-name/models"),
        ("MAX_MODELS", "0"),
        ("HTTP_PORT", "65536"),
        ("HTTP_PORT", "-1"),
        ("HTTP_PORT", "80.5"),
        ("HTTP_PORT", "8_080"),
        ("HTTP_PORT", "٨٠"),
        ("HTTP_PORT", ""),
        ("HTTP_PORT", "9" * 5000),
        ("BLOCK_SIZE", "0"),
        ("BLOCK_SIZE", "1e3"),
        ("POOL_CONCURRENCY", "257"),
        ("MAX_BODY_BYTES", "0"),
        ("MAX_BODY_BYTES", "5i"),
        ("MAX_BODY_BYTES", "-1"),
        ("POD_TTL", "0"),
        ("POD_TTL", "-5m"),
        ("POD_TTL", "inf"),
        ("POD_TTL", "nan"),
        ("POD_TTL", "9" * 400),
        ("POD_TTL", "5 days"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("TIER_WEIGHTS", "gpu"),
        ("TIER_WEIGHTS", "disk=0.5"),
        ("TIER_WEIGHTS", "gpu=1.1"),
        ("TIER_WEIGHTS", "gpu=nan"),
        ("TIER_WEIGHTS", "gpu=-1"),
        ("ZMQ_ENDPOINT", "localhost:5557"),
        ("BOOTSTRAP_FROM", "sibling:8080"),
        ("BOOTSTRAP_FROM", "shared"),
    ],
)
def test_an_invalid_value_is_reported_in_one_line_with_the_name_of_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        read(**{name: value})
    text = str(refusal.value)
    assert text.startswith(f"{name}=")
    assert "\n" not in text
    assert len(text) < 300


def test_every_setting_has_a_meaning_and_a_default_that_the_environment_can_hold() -> None:
    described = {name: default for name, default, meaning in describe() if meaning}
    assert set(described) == {setting.name.upper() for setting in fields(Settings)}
    assert Settings.from_environment(described) == Settings()


def test_pods_name_their_event_sources_so_that_none_is_the_default_beside_them() -> None:
    pods = {"PODS": "http://10.0.0.7:8000"}
    assert Settings.from_environment(pods).zmq_endpoint == ()
    assert Settings.from_environment({"PODS_FILE": "/pods.yaml"}).zmq_endpoint == ()
    assert Settings.from_environment({"DISCOVERY": "file:/pods.yaml"}).zmq_endpoint == ()
    assert Settings.from_environment({"PODS": "", "ZMQ_ENDPOINT": ""}).zmq_endpoint == ()
    given = {**pods, "ZMQ_ENDPOINT": "tcp://localhost:5557"}
    assert Settings.from_environment(given).zmq_endpoint == (Endpoint("tcp://localhost:5557"),)
