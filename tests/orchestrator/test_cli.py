from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from orchestrator.cli import app
from tests.command import Commands, free_port
from tests.conftest import ROOT

_OPTIONS = {
    "--runtime": "KVCACHE_RUNTIME",
    "--engine": "KVCACHE_ENGINE",
    "--name": "KVCACHE_NAME",
    "--port": "HTTP_PORT",
    "--publish-address": "KVCACHE_PUBLISH_ADDRESS",
    "--image": "KVCACHE_IMAGE",
    "--base-image": "KVCACHE_BASE_IMAGE",
    "--ca-bundle": "KVCACHE_CA_BUNDLE",
    "--wheel": "KVCACHE_WHEEL",
    "--build": "KVCACHE_BUILD",
    "--pull": "KVCACHE_PULL",
    "--model": "MODEL_NAME",
    "--models-dir": "KVCACHE_MODELS_DIR",
    "--hf-cache": "KVCACHE_HF_CACHE",
    "--state-dir": "KVCACHE_STATE_DIR",
    "--hf-endpoint": "HF_ENDPOINT",
    "--pod": "PODS",
    "--renderer": "RENDERERS",
    "--zmq-endpoint": "ZMQ_ENDPOINT",
    "--zmq-topic": "ZMQ_TOPIC",
    "--pool-concurrency": "POOL_CONCURRENCY",
    "--block-size": "BLOCK_SIZE",
    "--env": "KVCACHE_ENV",
    "--env-file": "KVCACHE_ENV_FILE",
    "--network": "KVCACHE_NETWORK",
    "--restart": "KVCACHE_RESTART",
    "--replicas": "KVCACHE_REPLICAS",
    "--valkey-image": "KVCACHE_VALKEY_IMAGE",
    "--cpus": "KVCACHE_CPUS",
    "--memory": "KVCACHE_MEMORY",
    "--timeout": "KVCACHE_TIMEOUT",
    "--detach": "KVCACHE_DETACH",
    "--quiet": "KVCACHE_QUIET",
    "--debug": "KVCACHE_DEBUG",
}


class Invoked(NamedTuple):
    code: int
    output: str


Invoke = Callable[..., Invoked]


@pytest.fixture
def invoke(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """`kvcache` in this process, with a state folder of the test's own: quicker where nothing is started."""
    for variable in (*_OPTIONS.values(), "HF_TOKEN", "HF_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def run(*arguments: str) -> Invoked:
        result = CliRunner().invoke(app, arguments)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Invoked(result.exit_code, result.output)

    return run


def test_help_names_each_option_with_its_variable(invoke: Invoke) -> None:
    shown = invoke("up", "--help").output
    for option, variable in _OPTIONS.items():
        at = re.search(rf"^ +(-\w, |--\w+, )?{option}\b", shown, re.MULTILINE)
        assert at, option
        paragraph = re.split(r"\n  -", shown[at.start() + 4 :])[0]
        assert variable in "".join(paragraph.split()), option


def test_help_has_a_whole_sentence_for_each_command(invoke: Invoke) -> None:
    assert "..." not in invoke("--help").output.partition("Commands:")[2]


def test_help_names_every_command(invoke: Invoke) -> None:
    shown = invoke("--help").output
    for command in ("up", "down", "stop", "start", "restart", "logs", "status", "doctor", "prune"):
        assert re.search(rf"^  {command} ", shown, re.MULTILINE), command


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up", "--runtime", "lxc"), "--runtime: 'lxc' is not a runtime"),
        (("up", "--port", "99999999"), "--port"),
        (("up", "--memory", "much"), "--memory: 'much' is not valid"),
        (("up", "--memory", "1k"), "--memory: '1k' is not valid: it must be a size of 6.0 MiB or more"),
        (("up", "--env", "HF_TOKEN=x"), "--env: HF_TOKEN is not given this way"),
        (("up", "--env", "LOG_LEVEL=loud"), "--env: LOG_LEVEL='loud': must be one of"),
        (("up", "--env", "LOG_LEVLE=info"), "Did you mean LOG_LEVEL?"),
        (("up", "--env-file", "no-such-file"), "--env-file: no-such-file cannot be read"),
        (("up", "--env-file", "~no-such-user/file"), "--env-file: ~no-such-user/file names a user who does not exist"),
        (("up", "--models-dir", "~no-such-user/m"), "--models-dir: ~no-such-user/m names a user who does not exist"),
        (("up", "--models-dir", __file__), "is a file"),
        (("up", "--restart", "always"), "--restart: only for a service that stays"),
        (("up", "-d", "--restart", "sometimes"), "--restart: 'sometimes' is not valid"),
        (("up", "--replicas", "0"), "--replicas: 0 is too few"),
        (("up", "--replicas", "3", "--runtime", "process"), "--replicas: 3 need containers"),
        (("up", "--name", "a/b"), "--name: 'a/b' is not a valid name"),
        (("logs", "--since", "yesterday"), "--since: 'yesterday' is not a valid time"),
        (("up", "--pod", "10.0.0.7:8000"), "--pod: '10.0.0.7:8000' is not a valid URL"),
        (("up", "--renderer", "m=jinja"), "--renderer: the renderer of m must be one of template, harmony"),
        (("up", "--zmq-endpoint", "localhost:1"), "--zmq-endpoint: 'localhost:1' must start with tcp://"),
        (("doctor", "--hf-endpoint", "nonsense"), "--hf-endpoint: 'nonsense' is not a URL"),
        (("no-such-command",), "no-such-command"),
    ],
)
def test_wrong_usage_is_told_and_has_exit_code_2(invoke: Invoke, arguments: tuple[str, ...], said: str) -> None:
    done = invoke(*arguments)
    assert done.code == 2
    assert said in done.output


def test_a_flag_beats_its_variable_and_a_variable_the_default(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCACHE_NAME", "of-the-variable")
    monkeypatch.setenv("HTTP_PORT", str(free_port()))
    options = ("doctor", "--runtime", "process", "--model", "builtin/demo", "--zmq-endpoint", "")

    assert "name: of-the-variable is free" in invoke(*options).output
    assert "name: of-the-flag is free" in invoke(*options, "--name", "of-the-flag").output


def test_a_traceback_is_shown_when_asked_for_and_only_then(kvcache: Commands) -> None:
    assert "Traceback" in kvcache.run("logs", "--runtime", "process", "--debug").output
    assert "Traceback" not in kvcache.run("logs", "--runtime", "process").output


def test_what_is_not_there_is_said(invoke: Invoke) -> None:
    logs = invoke("logs", "--runtime", "process")
    assert (logs.code, logs.output.splitlines()[0]) == (1, "Error: There is no service named kv-cache-unified-online.")
    status = invoke("status", "--runtime", "process")
    assert (status.code, status.output.strip()) == (1, "No service is up. Start one: kvcache up")
    assert invoke("status", "--json", "--runtime", "process").output.strip() == "[]"


def test_the_old_names_of_the_runtime_still_work(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    assert invoke("status", "--engine", "process", "--json").output.strip() == "[]"
    monkeypatch.setenv("KVCACHE_ENGINE", "lxc")
    assert "--runtime: 'lxc' is not a runtime" in invoke("status").output
    monkeypatch.setenv("KVCACHE_RUNTIME", "process")
    assert invoke("status", "--json").output.strip() == "[]"


def test_the_version_is_shown(invoke: Invoke) -> None:
    done = invoke("--version")
    assert done.code == 0
    assert re.fullmatch(r"kvcache \d+\.\d+.*\n", done.output)


def test_doctor_takes_the_options_of_up_with_the_same_meaning(invoke: Invoke) -> None:
    def options(command: str) -> set[str]:
        listed = invoke(command, "--help").output.partition("\nOptions:")[2]
        return set(re.findall(r"^ +(?:-\w, )?(--[\w-]+)", listed, re.MULTILINE))

    assert options("up") - options("doctor") == {
        *("--build", "--pull", "--timeout", "--restart", "--detach", "--quiet", "--dry-run")
    }


def test_a_name_can_be_an_argument(invoke: Invoke) -> None:
    for command in ("logs", "status", "stop", "start", "restart", "top"):
        done = invoke(command, "kv-other", "--runtime", "process")
        assert (done.code, "There is no service named kv-other" in done.output) == (1, True), done.output
    assert invoke("down", "kv-other", "--runtime", "process").output.strip().endswith("no service named kv-other")


def test_a_dry_run_shows_the_command_and_changes_nothing(invoke: Invoke, tmp_path: Path) -> None:
    options = ("--runtime", "process", "--port", str(free_port()), "--model", "builtin/demo")
    done = invoke("up", "kv-dry", "--dry-run", *options, "--env", "LOG_FORMAT=json")
    assert done.code == 0, done.output
    assert "MODEL_NAME=builtin/demo \\\n" in done.output
    assert "LOG_FORMAT=json" in done.output
    assert done.output.rstrip().endswith("-m service")
    assert list(tmp_path.rglob("*")) == []
    assert "no effect on a child process" in invoke("up", "--dry-run", *options, "--cpus", "1").output


def test_a_file_of_options_counts_less_than_variables_and_flags(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "options.toml"
    file.write_text(
        f'runtime = "process"\nname = "kv-file"\nport = {free_port()}\nmodel = "builtin/demo"\nzmq-endpoint = ""\n'
    )
    assert "name: kv-file is free" in invoke("--config", str(file), "doctor").output
    monkeypatch.setenv("KVCACHE_NAME", "kv-variable")
    assert "name: kv-variable is free" in invoke("--config", str(file), "doctor").output
    assert "name: kv-flag is free" in invoke("--config", str(file), "doctor", "--name", "kv-flag").output


def test_a_home_folder_that_the_shell_did_not_replace_is_found(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    (tmp_path / "options.toml").write_text(f'runtime = "process"\nport = {free_port()}\n')
    (tmp_path / "settings").write_text("LOG_FORMAT=json\n")
    shown = invoke("--config=~/options.toml", "up", "--dry-run", "--models-dir=~/m", "--env-file=~/settings").output
    assert f"MODELS_DIR={tmp_path}/m" in shown
    assert "LOG_FORMAT=json" in shown


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nmae = 1", "nmae is not an option"),
        ("nmae = 1", "Did you mean name?"),
        ("= nonsense", "cannot be read"),
        ("port = 'x'", "port"),
        ("port = 'x'", "options.toml"),
    ],
)
def test_a_wrong_file_of_options_is_refused(invoke: Invoke, tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "options.toml"
    file.write_text(text)
    done = invoke("--config", str(file), "down" if "port" not in text else "up")
    assert (done.code, said in done.output) == (2, True), done.output


@pytest.mark.parametrize("text", ["nmae = 1", "= nonsense"])
@pytest.mark.parametrize("command", ["up", "down", "status", "score"])
def test_help_needs_no_right_file_of_options(invoke: Invoke, tmp_path: Path, command: str, text: str) -> None:
    file = tmp_path / "options.toml"
    file.write_text(text)
    done = invoke("--config", str(file), command, "--help")
    assert (done.code, "Usage: " in done.output) == (0, True), done.output


def test_an_unknown_name_in_the_file_stops_no_command_that_looks_at_all_services(
    invoke: Invoke, tmp_path: Path
) -> None:
    file = tmp_path / "options.toml"
    file.write_text("runtime = 'process'\nnmae = 1\n")
    done = invoke("--config", str(file), "status")
    assert "is not an option" not in done.output
    assert done.code != 2, done.output


def test_the_file_and_the_variable_do_not_narrow_status_to_one_service(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KVCACHE_NAME", "kv-variable")
    file = tmp_path / "options.toml"
    file.write_text("runtime = 'process'\nname = 'kv-file'\n")
    assert "No service is up." in invoke("--config", str(file), "status").output
    assert "no service named kv-flag" in invoke("--config", str(file), "status", "--name", "kv-flag").output


def test_an_argument_is_no_option_of_the_file(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text("named = 'kv-other'\n")
    done = invoke("--config", str(file), "down", "--name", "kv-flag")
    assert done.code == 2
    assert "named is not an option" in done.output
    assert "Did you mean name?" in done.output


def test_settings_can_stand_in_the_file_too(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text(f'runtime = "process"\nport = {free_port()}\n[env]\nLOG_FORMAT = "json"\nMAX_MODELS = 3\n')
    shown = invoke("--config", str(file), "up", "--dry-run").output
    assert "LOG_FORMAT=json" in shown
    assert "MAX_MODELS=3" in shown


def test_one_value_of_an_option_that_may_be_repeated_needs_no_list(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text(f'runtime = "process"\nport = {free_port()}\npod = "http://10.0.0.7:8000"\n')
    assert "PODS=http://10.0.0.7:8000" in invoke("--config", str(file), "up", "--dry-run").output


def test_a_child_process_that_is_to_be_started_again_gets_a_unit_of_systemd(invoke: Invoke) -> None:
    port = str(free_port())
    done = invoke("up", "-d", "--runtime", "process", "--restart", "always", "--port", port, "--model", "builtin/demo")
    assert done.code == 1
    assert "| Restart=always" in done.output
    assert "systemctl --user enable --now" in done.output


_INTERRUPTED_IMPORT = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "orchestrator.cli":
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
sys.argv = ["kvcache", "up"]
runpy.run_module("orchestrator", run_name="__main__")
"""


def test_ctrl_c_while_the_program_loads_shows_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", _INTERRUPTED_IMPORT], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, b"", b"")
