from __future__ import annotations

import re

import pytest

from tests.command import Commands, free_port

_OPTIONS = {
    "--engine": "KVCACHE_ENGINE",
    "--name": "KVCACHE_NAME",
    "--port": "HTTP_PORT",
    "--publish-address": "KVCACHE_PUBLISH_ADDRESS",
    "--image": "KVCACHE_IMAGE",
    "--base-image": "KVCACHE_BASE_IMAGE",
    "--ca-bundle": "SSL_CERT_FILE",
    "--build": "KVCACHE_BUILD",
    "--model": "MODEL_NAME",
    "--models-dir": "KVCACHE_MODELS_DIR",
    "--hf-cache": "KVCACHE_HF_CACHE",
    "--hf-endpoint": "HF_ENDPOINT",
    "--zmq-endpoint": "ZMQ_ENDPOINT",
    "--zmq-topic": "ZMQ_TOPIC",
    "--pool-concurrency": "POOL_CONCURRENCY",
    "--block-size": "BLOCK_SIZE",
    "--env": "KVCACHE_ENV",
    "--cpus": "KVCACHE_CPUS",
    "--memory": "KVCACHE_MEMORY",
    "--timeout": "KVCACHE_TIMEOUT",
    "--detach": "KVCACHE_DETACH",
    "--quiet": "KVCACHE_QUIET",
    "--debug": "KVCACHE_DEBUG",
}


def test_help_names_each_option_with_its_variable(kvcache: Commands) -> None:
    shown = kvcache.run("up", "--help").output
    for option, variable in _OPTIONS.items():
        at = re.search(rf"^ +(-\w, )?{option}\b", shown, re.MULTILINE)
        assert at, option
        paragraph = re.split(r"\n  -", shown[at.start() + 4 :])[0]
        assert variable in "".join(paragraph.split()), option


def test_help_names_every_command(kvcache: Commands) -> None:
    shown = kvcache.run("--help").output
    for command in ("up", "down", "logs", "status", "doctor"):
        assert re.search(rf"^  {command} ", shown, re.MULTILINE), command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up", "--engine", "lxc"), "--engine: 'lxc' is no engine"),
        (("up", "--port", "99999999"), "--port"),
        (("up", "--memory", "much"), "--memory: 'much' is no size"),
        (("up", "--env", "HF_TOKEN=x"), "--env: HF_TOKEN is not given this way"),
        (("up", "--name", "a/b"), "--name: 'a/b' is no name"),
        (("logs", "--since", "yesterday"), "--since: 'yesterday' is no time"),
        (("no-such-command",), "no-such-command"),
    ],
)
def test_wrong_usage_is_told_and_has_exit_code_2(kvcache: Commands, arguments: tuple[str, ...], said: str) -> None:
    done = kvcache.run(*arguments)
    assert done.code == 2
    assert said in done.output
    assert "Traceback" not in done.output


def test_a_flag_beats_its_variable_and_a_variable_the_default(kvcache: Commands) -> None:
    by_variable = {"KVCACHE_NAME": "of-the-variable", "HTTP_PORT": str(free_port())}
    options = ("doctor", "--engine", "process", "--model", "builtin/demo")

    assert "name: of-the-variable is free" in kvcache.run(*options, environment=by_variable).output
    assert "name: of-the-flag is free" in kvcache.run(*options, "--name", "of-the-flag", environment=by_variable).output


def test_a_traceback_is_shown_when_asked_for(kvcache: Commands) -> None:
    assert "Traceback" in kvcache.run("logs", "--engine", "process", "--debug").output


def test_what_is_not_there_is_said(kvcache: Commands) -> None:
    logs = kvcache.run("logs", "--engine", "process")
    assert (logs.code, logs.output.splitlines()[0]) == (1, "Error: There is no service named kv-cache-unified-online.")
    status = kvcache.run("status", "--engine", "process")
    assert (status.code, status.output.strip()) == (1, "No service is up. Start one: kvcache up")
    assert kvcache.run("status", "--json", "--engine", "process").output.strip() == "[]"
