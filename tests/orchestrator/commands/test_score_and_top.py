from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.commands.score import Question
from orchestrator.errors import UsageError
from tests.command import free_port
from tests.orchestrator.invoked import Invoker


def asked(prompt: str | None, chat: Path | None = None, **more: str) -> Question:
    return Question(prompt, chat, more.get("model"), more.get("lora_name"), more.get("cache_salt"))


def test_a_text_is_asked_with_what_else_decides_its_blocks() -> None:
    assert asked("Hello", model="m", cache_salt="s").body() == {"prompt": "Hello", "model": "m", "cache_salt": "s"}


def test_a_chat_is_a_whole_request_or_only_its_messages(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    file = tmp_path / "chat.json"
    file.write_text('{"messages": [{"role": "user", "content": "Hello"}], "tools": []}')
    assert asked(None, file).body() == {"messages": messages, "tools": []}
    file.write_text('[{"role": "user", "content": "Hello"}]')
    assert asked(None, file, lora_name="l").body() == {"messages": messages, "lora_name": "l"}


@pytest.mark.parametrize("text", ["", "no json", '"text"', '{"prompt": "x"}'])
def test_a_file_that_holds_no_chat_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "chat.json"
    file.write_text(text)
    with pytest.raises(UsageError, match="--chat"):
        asked(None, file).body()


@pytest.mark.parametrize("command", [("score", "text"), ("top",)])
def test_a_service_that_is_not_there_is_said_with_a_remedy(invoker: Invoker, command: tuple[str, ...]) -> None:
    done = invoker.run(*command, "--url", f"http://127.0.0.1:{free_port()}")
    assert done.code == 1
    assert "No service answers at" in done.output
    assert "kvcache up" in done.output
    done = invoker.run(*command, "--runtime", "process", "--name", "nobody")
    assert done.code == 1
    assert "There is no service named nobody" in done.output


def test_a_text_or_a_chat_must_be_given_and_not_both(invoker: Invoker) -> None:
    assert invoker.run("score").code == 2
    assert invoker.run("score", "text", "--chat", "x").code == 2
