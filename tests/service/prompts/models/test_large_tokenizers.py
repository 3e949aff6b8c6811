"""Large tokenizers of the operator's models: their vocabularies are in processes, which may die."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import time
from array import array
from asyncio.events import Handle
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from service.prompts.errors import ModelUnavailable, PromptError
from service.prompts.models import loading, vocabulary_process
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from service.prompts.workers.process import WorkerProcess
from service.prompts.workers.shared import SharedProcess
from tests.conftest import BUILTIN
from tests.service.prompts.large_tokenizer import write_large_tokenizer
from tests.service.prompts.texts import ODDITIES
from tests.service.prompts.tokenizers_of_all_kinds import tokenizer_of

TEXT = "Hello, world! How are you?"
LONG = " ".join(f"word{number} and others" for number in range(6000))


@pytest.fixture
async def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Models]:
    """Models for which any tokenizer but the built-in one is large; "demo" has the same files as the built-in one."""
    write_demo(tmp_path / "demo")
    monkeypatch.setattr(loading, "_LARGE_BYTES", 1000)
    made = Models(PromptOptions(models_dir=tmp_path, max_models=1))
    yield made
    await made.close()


def write_demo(folder: Path) -> None:
    folder.mkdir()
    for path in BUILTIN.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())


def expected(text: str, file: Path = BUILTIN / "tokenizer.json") -> array[int]:
    return array("I", Tokenizer.from_file(str(file)).encode(text).ids)


def shared_of(models: Models) -> SharedProcess:
    assert models._loader is not None
    (shared,) = models._loader._processes
    return shared


def process_of(models: Models) -> subprocess.Popen[bytes]:
    process = shared_of(models)._process._process
    assert process is not None
    return process


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_the_service_does_next_to_nothing_while_a_tokenizer_of_28_megabytes_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [0.0]
    run = Handle._run

    def measured(handle: Handle) -> None:
        began = time.thread_time()
        run(handle)
        turns.append(time.thread_time() - began)

    assert write_large_tokenizer(tmp_path) > 28_000_000
    models = Models(PromptOptions(models_dir=tmp_path.parent))
    await models.get("builtin/demo")
    monkeypatch.setattr(Handle, "_run", measured)
    before = time.process_time()
    model = await models.get(tmp_path.name)
    own, theirs = time.process_time() - before, cpu_seconds(process_of(models).pid)
    monkeypatch.undo()
    # Nothing here held the GIL for longer than all threads together worked, whatever else the machine did.
    assert own < theirs / 10
    assert max(turns) < 0.01
    assert await model.tokenize(TEXT) == expected(TEXT, tmp_path / "tokenizer.json")
    await models.close()


async def test_a_large_tokenizer_has_the_tokens_that_a_small_one_has(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = await models.get("demo")
    process_of(models)
    monkeypatch.undo()
    ours = await models.get("builtin/demo")
    assert large.vocabulary_size == ours.vocabulary_size
    for text in (*ODDITIES, TEXT, "", LONG, "1234567890" * 500):
        for _ in range(2):
            tokens = await large.tokenize(text)
            assert tokens == await ours.tokenize(text)
        assert await large.detokenize(tokens) == await ours.detokenize(tokens)
        assert await large.token_strings(tokens) == await ours.token_strings(tokens)
        half = len(tokens) // 2
        assert await large.reach(text, tokens, half) == await ours.reach(text, tokens, half)


async def test_words_are_told_apart_where_the_model_has_no_added_token_but_the_unknown_one(
    models: Models, tmp_path: Path
) -> None:
    described = json.loads(tokenizer_of("words").to_str())
    described["added_tokens"] = described["added_tokens"][:1]
    file = tmp_path / "demo" / "tokenizer.json"
    file.write_text(json.dumps(described))
    (tmp_path / "demo" / "tokenizer_config.json").write_text("{}")
    model = await models.get("demo")
    for text in ("The word xyzzy is unknown", LONG):
        tokens = await model.tokenize(text, add_special_tokens=False)
        assert tokens == array("I", Tokenizer.from_file(str(file)).encode(text, add_special_tokens=False).ids)


async def test_what_a_large_tokenizer_refuses_is_said_as_a_small_one_says_it(models: Models) -> None:
    model = await models.get("demo")
    for text in ("\ud800", LONG + "\ud800"):
        with pytest.raises(PromptError, match="lone surrogate"):
            await model.tokenize(text)
    with pytest.raises(PromptError, match="0 or more"):
        await model.detokenize([-1])


@pytest.mark.parametrize("kind", ["demo", "gpt2 with a space before the text", "bert", "words"])
async def test_a_short_text_of_any_number_of_pieces_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Pieces are between added tokens: with a salt, or a tokenizer whose words cannot be cut, each is tokenized."""
    monkeypatch.setattr(loading, "_LARGE_BYTES", 1000)
    write_demo(tmp_path / "demo")
    file = tmp_path / "demo" / "tokenizer.json"
    if kind != "demo":
        tokenizer_of(kind).save(str(file))
        (tmp_path / "demo" / "tokenizer_config.json").write_text("{}")
    models = Models(PromptOptions(models_dir=tmp_path, token_cache_by_salt=True))
    model = await models.get("demo")
    asked: list[bytes] = []
    run_soon = WorkerProcess.run_soon

    def counted(process: WorkerProcess, job: bytes, seconds: float, soon: float, max_bytes: int) -> bytes | None:
        asked.append(job)
        return run_soon(process, job, seconds, soon, max_bytes)

    monkeypatch.setattr(WorkerProcess, "run_soon", counted)
    for salt in (None, "salt"):
        asked.clear()
        text = "".join(f"{salt}{number}<|end|>[INST]" for number in range(120))
        tokens = await model.tokenize(text, add_special_tokens=False, salt=salt)
        assert tokens == array("I", Tokenizer.from_file(str(file)).encode(text, add_special_tokens=False).ids)
        assert len(asked) == 1
    await models.close()


async def test_requests_survive_the_death_of_the_process(models: Models) -> None:
    model = await models.get("demo")
    for text in (TEXT, LONG, TEXT + " Again.", LONG + " Again."):
        killed = process_of(models)
        asked = asyncio.create_task(model.tokenize(text))
        await asyncio.sleep(0)
        killed.kill()
        assert await asked == expected(text)
        assert (await model.detokenize(expected(text))).endswith(text)
        assert process_of(models) is not killed


async def test_an_answer_that_comes_late_is_no_answer_to_the_next_question(models: Models) -> None:
    model = await models.get("demo")
    await model.tokenize("So that the process runs.")
    process = process_of(models)
    process.send_signal(signal.SIGSTOP)
    texts = ["Unknown words", "Other words", "More of them"]
    asked = [asyncio.create_task(model.tokenize(text)) for text in texts]
    await asyncio.sleep(0)
    assert shared_of(models)._process._in_flight is not None
    process.send_signal(signal.SIGCONT)
    assert await asyncio.gather(*asked) == list(map(expected, texts))
    assert process_of(models) is process


async def test_a_process_that_dies_of_every_job_is_not_started_for_each_request(models: Models) -> None:
    model = await models.get("demo")
    shared = shared_of(models)
    shared._process._module = "tests.service.prompts.models.dying_worker"
    process_of(models).kill()
    for reason in ("it crashes the process", "died twice"):
        with pytest.raises(ModelUnavailable, match=reason):
            await model.tokenize(TEXT)
    shared._process._module = loading._VOCABULARY_WORKER
    shared._clock = lambda: time.monotonic() + 5
    assert await model.tokenize(TEXT) == expected(TEXT)


async def test_a_process_that_cannot_be_started_is_said(models: Models) -> None:
    model = await models.get("demo")
    shared_of(models)._process._module = "no_such_module"
    process_of(models).kill()
    with pytest.raises(ModelUnavailable, match="no process can be started"):
        await model.tokenize(TEXT)


async def test_other_files_than_those_that_were_loaded_give_no_tokens(
    models: Models, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = await models.get("demo")
    await model.tokenize(TEXT)
    file = tmp_path / "demo" / "tokenizer.json"
    tokenizer_of("gpt2").save(str(file))
    assert await model.tokenize(TEXT + " As before.") == expected(TEXT + " As before.")
    process_of(models).kill()
    with pytest.raises(ModelUnavailable, match=r"files have changed .* POST /models/refresh"):
        await model.tokenize("Some text that is not cached")
    died, changed = caplog.messages
    assert died == "the tokenizer of demo: its process has died"
    assert "its files have changed since they were loaded" in changed
    assert await models.refresh("demo")
    assert await (await models.get("demo")).tokenize(TEXT) == expected(TEXT, file)


async def test_a_file_that_cannot_be_read_when_the_process_starts_again_is_named_until_it_can_be(
    models: Models, tmp_path: Path
) -> None:
    model = await models.get("demo")
    file = tmp_path / "demo" / "tokenizer.json"
    content = file.read_bytes()
    file.unlink()
    process_of(models).kill()
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json: .*No such file") as raised:
        await model.tokenize(TEXT)
    assert "refresh" not in str(raised.value)  # it would load nothing
    file.write_bytes(content)
    assert await model.tokenize(TEXT) == expected(TEXT)


async def test_a_process_that_does_not_answer_makes_the_model_unavailable(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = await models.get("demo")
    process_of(models).send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(vocabulary_process, "_LOAD_SECONDS", 0.1)
        with pytest.raises(ModelUnavailable, match="it takes longer than"):
            await model.tokenize(TEXT)
    assert await model.tokenize(TEXT) == expected(TEXT)


async def test_the_process_of_an_evicted_model_ends_after_its_last_request(models: Models, tmp_path: Path) -> None:
    write_demo(tmp_path / "other")
    model = await models.get("demo")
    process = process_of(models)
    await models.get("other")
    assert models.loaded() == ["other"]
    assert await model.tokenize(TEXT) == expected(TEXT)
    assert process.poll() is None
    del model
    gc.collect()
    await asyncio.to_thread(process.wait)


async def test_a_corrupt_large_tokenizer_is_named_and_leaves_no_process(models: Models, tmp_path: Path) -> None:
    (tmp_path / "demo" / "tokenizer.json").write_bytes(b"{" * 2000)
    with pytest.raises(ModelUnavailable, match=r"tokenizer\.json cannot be read"):
        await models.get("demo")
    assert models._loader is not None
    assert not models._loader._processes
