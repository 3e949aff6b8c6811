"""The ten success criteria of the original program's guide, each by its own words, on each runtime."""

from __future__ import annotations

import json
from collections.abc import Callable

from tests.command import wait_until
from tests.e2e.conftest import Running
from tests.e2e.containers import RuntimeCommand, Up
from tests.e2e.http import get, post

CHAT = {"model": "builtin/demo", "messages": [{"role": "user", "content": "What is KV-cache?"}]}


def test_1_the_container_builds_successfully(running: Running) -> None:
    assert f"Successfully tagged {running.runtime.image}" in running.command.output


def test_2_the_health_check_passes(running: Running) -> None:
    assert get(f"{running.url}/health") == "OK"


def test_3_the_original_scoring_endpoint_works(running: Running) -> None:
    assert post(f"{running.url}/score", {"prompt": "Hello, how are you today?"}) is None


def test_4_the_chat_completions_scoring_endpoint_works(running: Running) -> None:
    answer = post(f"{running.url}/score_completions", CHAT)
    assert answer["pod_scores"] is None
    assert answer["model"] == "builtin/demo"
    assert answer["original_messages"] == CHAT["messages"]


def test_5_the_full_chat_completions_endpoint_works(running: Running) -> None:
    answer = post(f"{running.url}/v1/chat/completions", CHAT)
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["content"].startswith("Response based on template: ")
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > usage["prompt_tokens"] > 0


def test_6_template_rendering_functions(running: Running) -> None:
    rendered = post(f"{running.url}/score_completions", CHAT)["rendered_template"]
    assert "What is KV-cache?" in rendered
    assert rendered != "What is KV-cache?"


def test_7_kv_cache_scoring_works(running: Running) -> None:
    engines = running.engines
    engines.play()
    wait_until(lambda: engines.heard(running.url) == engines.last, told=lambda: str(engines.heard(running.url)))

    for probe in engines.probes:
        more: dict[str, str] = {name: probe[name] for name in ("lora_name", "cache_salt") if name in probe}
        scores = post(f"{running.url}/score", {"prompt": probe["tokens"], "model": engines.model, **more})
        # What vLLM itself said that each pod holds; the service counts in blocks of the same size here.
        assert scores == ({pod: blocks for pod, blocks in probe["blocks"].items() if blocks} or None)
    # Some messages were lost on the way: their replay makes up for it.
    assert all(pod["exact"] for pod in json.loads(get(f"{running.url}/pods"))["pods"])


def test_8_zmq_event_processing_runs(running: Running) -> None:
    logs = running.kvcache.run("logs", "--name", running.name, "--runtime", running.runtime.kind)
    assert "Events pool started" in logs.output
    assert running.runtime("logs", running.name).count("Events pool started") == 1


def test_9_graceful_shutdown_works(make_up: Callable[..., Up]) -> None:
    up = make_up()
    command = up.start()
    command.wait_for("Press Ctrl+C to stop")
    command.interrupt()
    done = command.finish()

    assert done.code == 0
    said = ["Received shutdown signal", "Shutting down...", "Container removed successfully"]
    assert done.output.splitlines()[-3:] == said
    assert up.left() == []


def test_10_the_container_status_shows_healthy(running: Running, runtime: RuntimeCommand) -> None:
    def status() -> str:
        return runtime("ps", "--filter", f"name={running.name}", "--format", "{{.Status}}")

    # Docker's daemon looks for itself, five seconds after the start for the first time.
    wait_until(lambda: status().startswith("Up") and "(healthy)" in status(), told=status)
