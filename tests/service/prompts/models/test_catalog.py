from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import pytest

from service.contract.model_options import ModelOptions
from service.prompts.chat import Chat
from service.prompts.errors import ModelNotFound, ModelUnavailable, PromptError
from service.prompts.models.catalog import Models
from service.prompts.options import PromptOptions
from tests.command import free_port
from tests.conftest import BUILTIN
from tests.service.prompts.fake_hub import FakeHub, Repository
from tests.waiting import PATIENCE

FILES = {path.name: path.read_bytes() for path in BUILTIN.iterdir()}
WEIGHTS = {"model.safetensors": b"w" * 1000, "pytorch_model.bin": b"w", "README.md": b"# Hi", "config.json": b"{}"}

ANY = ("*",)

Start = Callable[..., Models]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts a service's models, as often as wanted; one that starts anew remembers nothing."""
    started: list[Models] = []

    def start(
        serves: Callable[[str], bool] = lambda _: False, clock: Callable[[], float] = time.monotonic, **options: Any
    ) -> Models:
        defaults: dict[str, Any] = {"models_dir": tmp_path / "models", "models": ("org/model",), "hub_timeout": 5.0}
        started.append(Models(PromptOptions(**(defaults | options)), serves, clock))
        return started[-1]

    yield start
    for models in started:
        await models.close()


def give_token(tmp_path: Path, token: str) -> None:
    (tmp_path / "token").write_text(token)


def on_disk(tmp_path: Path, name: str, files: dict[str, bytes] = FILES) -> Path:
    folder = tmp_path / "models" / name
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


async def unavailable(models: Models, name: str = "org/model") -> ModelUnavailable:
    with pytest.raises(ModelUnavailable) as caught:
        await models.get(name)
    assert caught.value.name == name
    return caught.value


async def test_a_model_in_models_dir_is_read_from_there(hub: FakeHub, start: Start, tmp_path: Path) -> None:
    on_disk(tmp_path, "org/model")
    model = await start().get("org/model")
    assert (model.name, model.max_model_length) == ("org/model", 131_072)
    assert not hub.asked


async def test_a_model_is_fetched_without_its_weights_and_rendered(hub: FakeHub, start: Start) -> None:
    named = {"additional_chat_templates/tool_use.jinja": b"tools!"}
    hub.repositories["org/model"] = Repository(FILES | WEIGHTS | named)
    model = await start().get("org/model")
    assert hub.files_asked_for() == FILES.keys() | named.keys() | {"config.json"}
    rendered = await model.render(Chat(messages=[{"role": "user", "content": "Hi"}]))
    assert rendered.text == "<|begin|><|role|>user<|say|>Hi<|end|>\n<|role|>assistant<|say|>"
    tool = {"type": "function", "function": {"name": "f"}}
    for fields in ({"tools": [tool]}, {"chat_template_kwargs": {"tools": [tool]}}):
        chat = Chat(messages=[{"role": "user", "content": "Hi"}], **fields)
        assert (await model.render(chat)).text == "tools!"


async def test_what_was_fetched_once_is_not_asked_for_again(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/model"] = Repository(
        {file: FILES[file] for file in ("tokenizer.json", "tokenizer_config.json")}
    )
    await start().get("org/model")
    hub.asked.clear()
    await start().get("org/model")
    assert not hub.asked


async def test_loads_in_flight_are_shared(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/model"] = Repository(FILES)
    models = start()
    loaded = await asyncio.gather(*(models.get("org/model") for _ in range(50)))
    assert len(set(map(id, loaded))) == 1
    assert hub.asked["GET /api/models/org/model"] == 1


async def test_who_gives_up_waiting_does_not_end_the_load_for_others(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/model"] = Repository(FILES)
    models = start()
    impatient = asyncio.create_task(models.get("org/model"))
    patient = asyncio.create_task(models.get("org/model"))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).name == "org/model"


async def test_the_least_recently_used_model_is_evicted(start: Start, tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        on_disk(tmp_path, name)
    models = start(max_models=2)
    for name in ("a", "b", "a", "c"):
        await models.get(name)
    assert models.loaded() == ["a", "c"]


async def test_a_request_may_name_the_operators_models_only(hub: FakeHub, start: Start, tmp_path: Path) -> None:
    for name in ("org/default", "org/named", "org/served", "org/other"):
        hub.repositories[name] = Repository(FILES)
    on_disk(tmp_path, "org/disk")
    models = start(serves=lambda name: name == "org/served", model_name="org/default", models=("org/named",))
    for name in ("org/default", "org/named", "org/served", "org/disk", "builtin/demo"):
        assert (await models.get(name)).trusted
    hub.asked.clear()
    for _ in range(2):
        with pytest.raises(ModelNotFound, match="MODELS"):
            await models.get("org/other")
    assert not hub.asked


async def test_with_any_model_allowed_others_are_loaded_but_not_trusted(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/other"] = Repository(FILES)
    assert not (await start(models=ANY).get("org/other")).trusted


async def test_a_model_becomes_trusted_when_a_pod_serves_it(hub: FakeHub, start: Start) -> None:
    served: set[str] = set()
    hub.repositories["org/model"] = Repository(FILES)
    models = start(serves=served.__contains__, models=ANY)
    assert not (await models.get("org/model")).trusted
    served.add("org/model")
    assert (await models.get("org/model")).trusted


async def test_models_of_strangers_never_evict_those_of_the_operator(hub: FakeHub, start: Start) -> None:
    names = [f"org/model-{number}" for number in range(5)]
    hub.repositories |= {name: Repository(FILES) for name in names}
    models = start(models=("*", "org/model-0"), max_models=1)
    for name in names:
        await models.get(name)
    assert models.loaded() == ["org/model-0", "org/model-4"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/..",
        "..",
        ".",
        "a//b",
        "a/b/c",
        "a b",
        "a\\b",
        "a\n",
        "ü/x",
        "~root",
        "-x",
        "x" * 200,
    ],
)
async def test_a_name_that_is_none_is_not_found_and_leads_nowhere(hub: FakeHub, start: Start, name: str) -> None:
    with pytest.raises(ModelNotFound):
        await start(models=ANY).get(name)
    assert not hub.asked


@pytest.mark.parametrize("name", ["a-", "a.", "a--b", "x.git"])
async def test_a_name_that_the_hub_cannot_have_is_not_found(hub: FakeHub, start: Start, name: str) -> None:
    with pytest.raises(ModelNotFound):
        await start(models=ANY).get(name)


async def test_a_folder_without_a_tokenizer_names_the_file_that_is_missing(
    hub: FakeHub, start: Start, tmp_path: Path
) -> None:
    folder = on_disk(tmp_path, "org/model", WEIGHTS)
    error = await unavailable(start())
    assert error.reason == f"{folder} has no tokenizer.json"
    assert not hub.asked


async def test_a_byte_order_mark_before_a_file_is_ignored(start: Start, tmp_path: Path) -> None:
    on_disk(tmp_path, "org/model", {name: b"\xef\xbb\xbf" + content for name, content in FILES.items()})
    model = await start().get("org/model")
    chat = Chat(messages=[{"role": "user", "content": "Hi"}])
    assert (await model.render(chat)).text.startswith("<|begin|>")


async def test_an_unknown_builtin_model_is_not_looked_for_elsewhere(hub: FakeHub, start: Start) -> None:
    with pytest.raises(ModelNotFound, match="built in"):
        await start(models=ANY).get("builtin/other")
    assert not hub.asked


async def test_a_model_that_the_hub_does_not_know_is_not_found(hub: FakeHub, start: Start, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="needs HF_TOKEN"):
        await start(models=ANY).get("org/nothing")
    give_token(tmp_path, "hf_good")
    with pytest.raises(ModelNotFound, match=r"has no model of that name$"):
        await start(models=ANY).get("org/nothing")


async def test_a_private_model_is_fetched_with_the_token_of_the_file(
    hub: FakeHub, start: Start, tmp_path: Path
) -> None:
    hub.repositories["org/model"] = Repository(FILES, private=True)
    with pytest.raises(ModelNotFound, match="HF_TOKEN"):
        await start().get("org/model")
    give_token(tmp_path, "hf_good")
    assert (await start().get("org/model")).name == "org/model"


async def test_a_gated_model_says_what_to_accept_and_with_what(hub: FakeHub, start: Start, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository(FILES, gated=True)
    error = await unavailable(start())
    assert "no token" in error.reason
    assert f"{hub.url}/org/model" in error.remedy and "HF_TOKEN" in error.remedy
    give_token(tmp_path, "hf_good")
    error = await unavailable(start())
    assert "not admitted" in error.reason and "that account" in error.remedy


async def test_a_token_that_is_wrong_is_said_to_be(hub: FakeHub, start: Start, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository(FILES)
    give_token(tmp_path, "hf_bad")
    error = await unavailable(start())
    assert "refuses the token" in error.reason and "HF_TOKEN" in error.remedy


@pytest.mark.parametrize(
    ("status", "reason"), [(403, "forbids it"), (429, "fewer requests"), (500, "HTTP 500"), (503, "HTTP 503")]
)
async def test_a_hub_with_a_problem_is_quoted(hub: FakeHub, start: Start, status: int, reason: str) -> None:
    hub.repositories["org/model"] = Repository(FILES, status=status)
    error = await unavailable(start())
    assert reason in error.reason and "MODELS_DIR/org/model/" in error.remedy


async def test_a_hub_that_is_silent_is_given_up(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/model"] = Repository(FILES, silent=True)
    assert "did not answer within 0.2 s" in (await unavailable(start(hub_timeout=0.2))).reason


async def test_a_hub_that_is_down_cannot_be_reached(
    hub: FakeHub, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    error = await unavailable(start())
    assert f"the hub at {url} cannot be reached" in error.reason and "HF_ENDPOINT" in error.remedy


async def test_what_is_no_hub_is_said_to_be_none(hub: FakeHub, start: Start) -> None:
    hub.html = True
    assert "does not answer as a hub does" in (await unavailable(start())).reason


async def test_a_model_without_tokenizer_json_is_unavailable(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/model"] = Repository(WEIGHTS)
    assert "has none of tokenizer.json, tekken.json" in (await unavailable(start())).reason


async def test_offline_only_what_is_cached_is_there(
    hub: FakeHub, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/model"] = Repository(FILES)
    await start().get("org/model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    models = start(models=ANY)
    assert (await models.get("org/model")).name == "org/model"
    error = await unavailable(models, "org/other")
    assert "HF_HUB_OFFLINE" in error.reason and "MODELS_DIR/org/other/" in error.remedy


async def test_a_download_that_broke_off_is_unavailable_and_then_taken_up_again(hub: FakeHub, start: Start) -> None:
    repository = hub.repositories["org/model"] = Repository(FILES, cut="tokenizer.json")
    assert "cannot be reached" in (await unavailable(start())).reason
    repository.cut = None
    assert (await start().get("org/model")).name == "org/model"


async def test_a_cached_file_that_is_cut_short_is_fetched_anew(hub: FakeHub, start: Start, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository(FILES)
    await start().get("org/model")
    cut_short(tmp_path)
    model = await start().get("org/model")
    assert await model.detokenize(await model.tokenize("whole", add_special_tokens=False)) == "whole"


async def test_a_cached_file_that_is_cut_short_is_named_when_the_hub_is_away(
    hub: FakeHub, start: Start, tmp_path: Path
) -> None:
    hub.repositories["org/model"] = Repository(FILES)
    await start().get("org/model")
    cut_short(tmp_path)
    hub.repositories["org/model"].status = 503
    error = await unavailable(start())
    assert "tokenizer.json cannot be read" in error.reason and "HTTP 503" in error.reason


def cut_short(tmp_path: Path) -> None:
    (file,) = (tmp_path / "cache").glob("models--org--model/snapshots/*/tokenizer.json")
    file.resolve().write_bytes(FILES["tokenizer.json"][:5000])


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", b"{"),
        ("tokenizer.json", b'{"model": {"type": "BPE"}}'),
        ("tokenizer.json", b"\xff\xfe"),
        ("tokenizer_config.json", b"[]"),
        ("tokenizer_config.json", b"{'a': 1}"),
        ("tokenizer_config.json", b"[" * 100_000),
        ("special_tokens_map.json", b"nothing"),
        ("chat_template.jinja", b"\xff"),
    ],
)
async def test_a_corrupt_file_is_named(start: Start, tmp_path: Path, file: str, content: bytes) -> None:
    folder = on_disk(tmp_path, "org/model", FILES | {file: content})
    error = await unavailable(start())
    assert str(folder / file) in error.reason


async def test_a_chat_template_that_is_none_leaves_plain_prompts_alone(start: Start, tmp_path: Path) -> None:
    config = json.dumps({"chat_template": [{"title": "x"}]}).encode()
    on_disk(tmp_path, "org/bad", FILES | {"tokenizer_config.json": config})
    on_disk(tmp_path, "org/torn", FILES | {"chat_template.jinja": b"{% if %}"})
    models = start()
    assert len(await (await models.get("org/torn")).tokenize("fine")) > 1
    assert "chat_template" not in (await unavailable(start(models=ANY), "org/nothing")).reason


@pytest.mark.parametrize("where", ["hub", "disk"])
async def test_a_repository_with_a_tokenizer_of_mistrals_own_kind_needs_no_other(
    hub: FakeHub, start: Start, tmp_path: Path, shared: Path, where: str
) -> None:
    pytest.importorskip("mistral_common", reason="mistral-common is not installed")
    original = shared / "models" / "mistralai" / "Mistral-Nemo-Instruct-2407"
    files = {name: (original / name).read_bytes() for name in ("tekken.json", "consolidated.safetensors")}
    if where == "disk":
        on_disk(tmp_path, "org/model", files)
    else:
        hub.repositories["org/model"] = Repository(files)
    for models in (start(), start()) if where == "hub" else (start(),):
        model = await models.get("org/model")
        assert (model.renderer_name, model.vocabulary_size) == ("mistral", 131_072)
        tokens = await model.tokenize("Hello, world!")
        assert tokens[0] == 1
        assert await model.detokenize(tokens) == "<s>Hello, world!"
        assert (await model.token_strings([*tokens[:2], 1 << 20])) == ["<s>", "Hello", None]
        assert await model.reach("Hello, world!", tokens, 2) == len("Hello")
        chat = Chat(messages=[{"role": "user", "content": "Hi"}])
        assert (await model.render(chat)).text == "<s>[INST]Hi[/INST]"
        kept = Chat(messages=chat.messages, truncate_prompt_tokens=2)
        assert (await model.render(kept)).tokens == (await model.render(chat)).tokens[-2:]
    if where == "hub":
        assert hub.files_asked_for() == {"tekken.json"}
        assert hub.asked["GET /api/models/org/model"] == 1


async def test_mistrals_tokenizer_beside_other_weights_is_not_fetched_unless_it_is_the_only_one(
    hub: FakeHub, start: Start
) -> None:
    hub.repositories["org/model"] = Repository(FILES | {"tekken.json": b"{", "model.safetensors": b"w"})
    assert (await start().get("org/model")).renderer_name == "template"
    assert "tekken.json" not in hub.files_asked_for()


async def test_a_processors_template_comes_first_except_for_tools(start: Start, tmp_path: Path) -> None:
    processor = {
        "preprocessor_config.json": b'{"processor_class": "LlavaProcessor"}',
        "chat_template.json": b'{"chat_template": "processor"}',
    }
    without = {name: content for name, content in FILES.items() if name != "chat_template.jinja"}
    configured = without | {"tokenizer_config.json": b'{"chat_template": "tokenizer"}'}
    on_disk(tmp_path, "both", configured | processor)
    on_disk(tmp_path, "one", without | processor)
    models = start()
    with_tools = Chat(
        messages=[{"role": "user", "content": "Hi"}], tools=[{"type": "function", "function": {"name": "f"}}]
    )
    assert await rendered(models, "both") == await rendered(models, "one") == "processor"
    assert (await (await models.get("both")).render(with_tools)).text == "tokenizer"
    with pytest.raises(PromptError, match="no chat template for tools"):
        await (await models.get("one")).render(with_tools)


OLD, NEW = "a" * 40, "b" * 40


def saying(text: str) -> dict[str, bytes]:
    return FILES | {"chat_template.jinja": text.encode()}


async def rendered(models: Models, name: str = "org/model") -> str:
    return (await (await models.get(name)).render(Chat(messages=[{"role": "user", "content": "Hi"}]))).text


@pytest.mark.parametrize("revision", [OLD, "v1"])
async def test_a_pinned_revision_is_taken_also_from_the_cache(hub: FakeHub, start: Start, revision: str) -> None:
    hub.repositories["org/model"] = Repository(saying("new"), older={revision: saying("old")})
    pinned = {"revisions": {"org/model": revision}}
    assert await rendered(start(**pinned)) == "old"
    assert await rendered(start()) == "new"
    hub.asked.clear()
    assert await rendered(start(**pinned)) == "old"
    assert await rendered(start()) == "new"
    assert not hub.asked


async def test_an_alias_has_the_revision_of_its_model(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/model"] = Repository(saying("new"), older={OLD: saying("old")})
    models = start(model_aliases={"chat": "org/model"}, revisions={"org/model": OLD})
    assert await rendered(models, "chat") == "old"


async def test_a_revision_that_the_hub_does_not_have_is_said(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/model"] = Repository(FILES)
    error = await unavailable(start(revisions={"org/model": "v2"}))
    assert "does not have its revision" in error.reason and "REVISION" in error.remedy


async def test_a_model_is_refreshed_only_if_the_hub_has_a_later_commit(hub: FakeHub, start: Start) -> None:
    repository = hub.repositories["org/model"] = Repository(saying("first"))
    models = start()
    assert await rendered(models) == "first"
    hub.asked.clear()
    assert await models.refresh("org/model") is False
    assert hub.asked == {"GET /api/models/org/model": 1}
    repository.files, repository.commit = saying("second"), NEW
    assert await rendered(models) == "first"
    assert await models.refresh("org/model") is True
    assert await rendered(models) == "second"
    assert await rendered(start()) == "second"


async def test_a_model_of_a_pinned_commit_is_not_asked_for_again(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/model"] = Repository(FILES, older={OLD: FILES})
    models = start(revisions={"org/model": OLD})
    await models.get("org/model")
    hub.asked.clear()
    assert await models.refresh("org/model") is False
    assert not hub.asked


async def test_a_model_stays_as_it_is_while_the_hub_is_away(hub: FakeHub, start: Start) -> None:
    repository = hub.repositories["org/model"] = Repository(saying("first"))
    models = start()
    await models.get("org/model")
    repository.status, repository.files, repository.commit = 503, saying("second"), NEW
    assert await models.refresh("org/model") is False
    assert await rendered(models) == "first"


async def test_files_in_models_dir_are_read_again_when_they_have_changed(start: Start, tmp_path: Path) -> None:
    folder = on_disk(tmp_path, "org/model", saying("first"))
    models = start(model_options={"org/other": ModelOptions(chat_template="own.jinja")})
    assert await rendered(models) == "first"
    assert await models.refresh("org/model") is False
    (folder / "chat_template.jinja").write_text("second, and longer")
    assert await models.refresh("org/model") is True
    assert await rendered(models) == "second, and longer"
    on_disk(tmp_path, "org/other")
    (tmp_path / "models" / "own.jinja").write_text("own")
    assert await rendered(models, "org/other") == "own"
    (tmp_path / "models" / "own.jinja").write_text("own, but changed")
    assert await models.refresh("org/other") is True
    assert await rendered(models, "org/other") == "own, but changed"


async def test_files_that_have_become_corrupt_leave_the_model_as_it_was(start: Start, tmp_path: Path) -> None:
    folder = on_disk(tmp_path, "org/model", saying("first"))
    models = start()
    await models.get("org/model")
    (folder / "tokenizer_config.json").write_text("[")
    for _ in range(2):
        assert await models.refresh("org/model") is False
        assert await rendered(models) == "first"


async def test_failures_are_remembered_for_a_while(hub: FakeHub, start: Start) -> None:
    now = 1000.0
    hub.repositories["org/model"] = Repository(FILES, status=503)
    models = start(hub_retry_after=30.0, clock=lambda: now)
    for _ in range(1000):
        await unavailable(models)
    assert hub.asked.total() == 1
    hub.repositories["org/model"].status = None
    now = 1029.0
    await unavailable(models)
    now = 1031.0
    assert (await models.get("org/model")).name == "org/model"


async def test_a_thousand_requests_at_once_make_one_call_that_fails(hub: FakeHub, start: Start) -> None:
    hub.repositories["org/model"] = Repository(FILES, status=503)
    models = start()
    await asyncio.gather(*(unavailable(models) for _ in range(1000)))
    assert hub.asked.total() == 1


async def test_a_hub_that_asks_for_fewer_requests_gets_none(hub: FakeHub, start: Start) -> None:
    names = [f"org/model-{number}" for number in range(20)]
    hub.repositories |= {name: Repository(FILES, status=429) for name in names}
    models = start(models=ANY)
    for name in names:
        assert "fewer requests" in (await unavailable(models, name)).reason
    assert hub.asked.total() == 1


async def test_a_hub_that_is_silent_is_not_asked_for_each_of_a_thousand_models(hub: FakeHub, start: Start) -> None:
    now = 1000.0
    names = [f"org/model-{number}" for number in range(1000)]
    hub.repositories |= {name: Repository(FILES, silent=True) for name in names}
    models = start(models=ANY, hub_timeout=0.3, hub_retry_after=30.0, clock=lambda: now)
    errors = await asyncio.gather(*(unavailable(models, name) for name in names))
    assert all("did not answer" in error.reason for error in errors)
    assert all(f"MODELS_DIR/{name}/" in error.remedy for name, error in zip(names, errors, strict=True))
    assert 1 <= hub.asked.total() <= 4  # those that had begun
    await models.get("builtin/demo")
    hub.repositories[names[0]].silent = False
    now = 1031.0
    assert (await models.get(names[0])).name == names[0]


async def test_closing_waits_neither_for_a_silent_hub_nor_for_a_long_text(hub: FakeHub) -> None:
    hub.repositories["org/model"] = Repository(FILES, silent=True)
    models = Models(PromptOptions(models=("org/model",), hub_timeout=30.0))
    model = await models.get("builtin/demo")
    random_ = random.Random(1)
    text = "".join(chr(random_.randrange(33, 0x3000)) + " a b" for _ in range(500_000))
    loading = asyncio.create_task(models.get("org/model"))
    tokenizing = asyncio.create_task(model.tokenize(text))
    await hub.heard.wait()
    await models.close()
    for task in (loading, tokenizing):
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not hub.over.is_set()


async def test_a_process_ends_though_the_hub_is_silent(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository(FILES, silent=True)
    program = (
        "import asyncio, sys\n"
        "from service.prompts.models.catalog import Models\n"
        "from service.prompts.options import PromptOptions\n"
        "async def main():\n"
        "    models = Models(PromptOptions(models=('*',), hub_timeout=30.0))\n"
        "    task = asyncio.create_task(models.get('org/model'))\n"
        "    await asyncio.to_thread(sys.stdin.read)\n"
        "    await models.close()\n"
        "asyncio.run(main())"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        env={"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url},
        stdin=subprocess.PIPE,
    )
    await hub.heard.wait()
    assert process.stdin is not None
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), PATIENCE) == 0


async def test_the_hubs_own_variables_are_followed(hub: FakeHub, tmp_path: Path) -> None:
    hub.repositories["org/model"] = Repository(FILES, private=True)
    give_token(tmp_path, "hf_good")
    program = (
        "import asyncio\n"
        "from service.prompts.models.catalog import Models\n"
        "from service.prompts.options import PromptOptions\n"
        "async def main():\n"
        "    models = Models(PromptOptions(models=('org/model',)))\n"
        "    try: print((await models.get('org/model')).name)\n"
        "    except Exception as error: print(error)\n"
        "    finally: await models.close()\n"
        "asyncio.run(main())"
    )
    environment = {
        "PATH": os.environ["PATH"],
        "HF_HOME": str(tmp_path / "home"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN_PATH": str(tmp_path / "token"),
    }

    async def run(**variables: str) -> str:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, env=environment | variables, stdout=subprocess.PIPE
        )
        return (await process.communicate())[0].decode().strip()

    assert "HF_HUB_OFFLINE" in await run(HF_HUB_OFFLINE="1")
    assert await run() == "org/model"
    assert await run(HF_HUB_OFFLINE="1") == "org/model"
    shutil.rmtree(tmp_path / "home")
    assert "HF_TOKEN" in await run(HF_TOKEN_PATH=str(tmp_path / "none"))
