from __future__ import annotations

import pytest

from tests.service.api.conftest import CHAT, post, refused
from tests.service.conftest import Serve


async def test_text_is_tokenized_in_the_shape_of_vllm(serve: Serve) -> None:
    client = await serve()
    plain = await post(client, "/tokenize", {"prompt": "Hello, world"})
    assert plain["count"] == len(plain["tokens"])
    assert plain["max_model_len"] == 131072
    assert plain["token_strs"] is None
    spelled = await post(client, "/tokenize", {"prompt": "Hello, world", "return_token_strs": True})
    assert len(spelled["token_strs"]) == spelled["count"]
    bare = await post(client, "/tokenize", {"prompt": "Hello, world", "add_special_tokens": False})
    assert plain["tokens"][-bare["count"] :] == bare["tokens"]
    assert (await post(client, "/detokenize", {"tokens": bare["tokens"]})) == {"prompt": "Hello, world"}


async def test_a_chat_is_tokenized_as_it_is_rendered(serve: Serve) -> None:
    client = await serve()
    rendered = await post(client, "/v1/chat/completions/render", CHAT)
    assert (await post(client, "/tokenize", CHAT))["tokens"] == rendered["token_ids"]
    open_ended = await post(client, "/tokenize", {**CHAT, "add_generation_prompt": False, "return_token_strs": True})
    assert open_ended["tokens"] == rendered["token_ids"][: open_ended["count"]]
    assert open_ended["count"] < len(rendered["token_ids"])


async def test_detokenize_reverses_tokenize_for_any_text(serve: Serve) -> None:
    client = await serve()
    for text in ("", "\0", "😀" * 50, "שלום", "<|end|>", "x" * 5000, "\r\n\t "):
        tokens = (await post(client, "/tokenize", {"prompt": text, "add_special_tokens": False}))["tokens"]
        assert await post(client, "/detokenize", {"tokens": tokens}) == {"prompt": text}


REFUSED: tuple[tuple[str, dict[str, object], int, str], ...] = (
    ("/tokenize", {}, 400, "prompt"),
    ("/tokenize", {"prompt": None}, 400, "prompt"),
    ("/tokenize", {"prompt": [1, 2]}, 400, "prompt"),
    ("/tokenize", {"prompt": "x" * 101}, 413, "prompt"),
    ("/tokenize", {"prompt": "x", "model": "no such: model"}, 404, "model"),
    ("/tokenize", {"prompt": "x", "messages": []}, 400, "prompt"),
    ("/tokenize", {"messages": []}, 400, "messages"),
    ("/detokenize", {}, 400, "tokens"),
    ("/detokenize", {"tokens": "x"}, 400, "tokens"),
    ("/detokenize", {"tokens": [1, -1]}, 400, "tokens[1]"),
    ("/detokenize", {"tokens": [1, 2, 4_000_000_000]}, 400, "tokens[2]"),
    ("/detokenize", {"tokens": [2**32]}, 400, "tokens[0]"),
    ("/detokenize", {"tokens": [True]}, 400, "tokens[0]"),
    ("/detokenize", {"tokens": [1] * 51}, 413, "tokens"),
)


async def test_invalid_or_too_large_input_is_rejected(serve: Serve, subtests: pytest.Subtests) -> None:
    client = await serve(max_prompt_characters=100, max_prompt_tokens=50)
    for path, body, status, param in REFUSED:
        with subtests.test(path, body=body):
            assert (await refused(client, path, body))[:2] == (status, param)
