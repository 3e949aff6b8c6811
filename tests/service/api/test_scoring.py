from __future__ import annotations

import json

import pytest

from service.contract.tier_weights import TierWeights
from tests.service.api.conftest import CHAT, Join, post, refused
from tests.service.conftest import Play, Recorded, Serve


def asked(recorded: Recorded, probe: int) -> dict[str, object]:
    prompt, _ = recorded.truth.probes[probe]
    return {
        "model": recorded.truth.model,
        "prompt": prompt.tokens.tolist(),
        "lora_name": prompt.lora_name,
        "cache_salt": prompt.cache_salt,
    }


def best_of_ranks(recorded: Recorded, probe: int) -> dict[str, int] | None:
    best: dict[str, int] = {}
    for rank, blocks in recorded.truth.probes[probe][1].items():
        best[rank.pod] = max(best.get(rank.pod, 0), blocks)
    return {pod: blocks for pod, blocks in best.items() if blocks} or None


@pytest.mark.parametrize("name", ["a_simple", "b3_copy_left", "c_lora_salt", "d_bytes", "g_dp"])
async def test_scores_equal_the_blocks_that_vllm_would_have_reused(play: Play, name: str) -> None:
    recorded = await play(name, block_size=16)
    for probe in range(len(recorded.truth.probes)):
        assert await post(recorded.client, "/score", asked(recorded, probe)) == best_of_ranks(recorded, probe)


async def test_a_score_is_in_units_of_the_block_size_and_an_integer_when_whole(play: Play) -> None:
    recorded = await play("a_simple", block_size=32)
    held = best_of_ranks(recorded, 0)
    assert held is not None
    async with recorded.client.post("/score", json=asked(recorded, 0)) as answer:
        assert await answer.text() == json.dumps(
            {pod: blocks // 2 for pod, blocks in held.items()}, separators=(",", ":")
        )


async def test_a_request_may_name_a_lora_as_its_model(play: Play) -> None:
    recorded = await play("c_lora_salt", block_size=16)
    named = [
        probe
        for probe, (prompt, _) in enumerate(recorded.truth.probes)
        if prompt.lora_name and best_of_ranks(recorded, probe)
    ]
    assert named
    for probe in named:
        body = asked(recorded, probe)
        body["model"] = body.pop("lora_name")
        assert await post(recorded.client, "/score", body) == best_of_ranks(recorded, probe)
    contradiction = {**asked(recorded, named[0]), "model": asked(recorded, named[0])["lora_name"], "lora_name": "other"}
    assert (await refused(recorded.client, "/score", contradiction))[:2] == (400, "lora_name")


async def test_a_lora_that_no_engine_announced_has_no_scores_and_is_no_model(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    await (await join(client, "plain:1")).stores([1, 2, 3, 4])
    await (await join(client, "tuned:2")).stores([1, 2, 3, 4], lora_name="sql")
    assert await post(client, "/score", {"prompt": [1, 2, 3, 4], "lora_name": "nobody"}) is None
    assert await post(client, "/score", {"prompt": "Hello", "lora_name": "nobody"}) is None
    assert (await refused(client, "/score", {"prompt": "Hello", "model": "nobody"}))[0] == 404
    assert (await refused(client, "/score_completions", {**CHAT, "model": "nobody"}))[0] == 404


async def test_the_name_of_a_served_model_wins_over_a_lora_s(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    for lora_name in ("builtin/demo", "builtin/other"):
        await (await join(client, f"tuned-{lora_name[-1]}:1")).stores([1, 2, 3, 4], lora_name=lora_name)
    await (await join(client, "plain:2")).stores([1, 2, 3, 4])
    await (await join(client, "other:3", model="builtin/other")).stores([1, 2, 3, 4])
    assert await post(client, "/score", {"prompt": [1, 2, 3, 4], "model": "builtin/demo"}) == {"plain:2": 1}
    assert await post(client, "/score", {"prompt": [1, 2, 3, 4], "model": "builtin/other"}) == {"other:3": 1}


async def test_pods_restricts_the_scores_to_those_pods(play: Play) -> None:
    recorded = await play("c_lora_salt", block_size=16)
    held = best_of_ranks(recorded, 0)
    assert held is not None and len(held) == 2
    for pod, blocks in held.items():
        assert await post(recorded.client, "/score", {**asked(recorded, 0), "pods": [pod]}) == {pod: blocks}
    assert await post(recorded.client, "/score", {**asked(recorded, 0), "pods": ["another"]}) is None


async def test_several_prompts_of_one_request_add_up(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    first, second = await join(client, "a:1"), await join(client, "b:2")
    await first.stores([1, 2, 3, 4, 5, 6, 7, 8])
    await second.stores([1, 2, 3, 4])
    await second.stores([9, 9, 9, 9, 9, 9, 9, 9])
    prompts = [[1, 2, 3, 4, 5, 6, 7, 8], [9, 9, 9, 9, 9, 9, 9, 9], [7, 7, 7, 7]]
    assert await post(client, "/score", {"prompt": prompts}) == {"b:2": 3, "a:1": 2}
    assert await post(client, "/score", {"prompt": [prompts[0]]}) == {"a:1": 2, "b:2": 1}
    assert await post(client, "/score", {"prompt": [[7, 7, 7, 7]]}) is None


async def test_top_gives_only_the_best_pods(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    for pod, blocks in (("a:1", 1), ("b:2", 3), ("c:3", 2), ("d:4", 2)):
        await (await join(client, pod)).stores([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12][: 4 * blocks])
    body = {"prompt": [*range(1, 13)]}
    for more in ({}, {"placements": True}):
        assert await post(client, "/score", {**body, **more, "top": 2}) == {"b:2": 3, "c:3": 2}
        assert await post(client, "/score", {**body, **more, "top": 9}) == {"b:2": 3, "c:3": 2, "d:4": 2, "a:1": 1}
    assert await post(client, "/score", {"prompt": [body["prompt"], [1, 2, 3, 4]], "top": 1}) == {"b:2": 4}
    chat = (await post(client, "/tokenize", CHAT))["tokens"]
    for pod in ("e:5", "f:6"):
        await (await join(client, pod)).stores(chat)
    assert await post(client, "/score", {**CHAT, "top": 1}) == {"e:5": len(chat) // 4}
    assert (await post(client, "/score_completions", {**CHAT, "top": 1}))["pod_scores"] == {"e:5": len(chat) // 4}


async def test_text_is_scored_by_the_tokens_that_the_engine_computes(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    text = "The quick brown fox jumps over the lazy dog, again and again."
    tokens = (await post(client, "/tokenize", {"prompt": text}))["tokens"]
    bare = (await post(client, "/tokenize", {"prompt": text, "add_special_tokens": False}))["tokens"]
    assert tokens != bare
    await (await join(client, "a:1")).stores(tokens)
    assert await post(client, "/score", {"prompt": text}) == {"a:1": len(tokens) // 4}
    assert await post(client, "/score", {"prompt": [text]}) == {"a:1": len(tokens) // 4}
    assert await post(client, "/score", {"prompt": text, "model": ""}) == {"a:1": len(tokens) // 4}
    assert await post(client, "/score", {"prompt": text, "add_special_tokens": False}) is None


async def test_a_prompt_is_truncated_as_the_engine_truncates_it(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    text = "The quick brown fox jumps over the lazy dog, again and again."
    tokens = (await post(client, "/tokenize", {"prompt": text, "add_special_tokens": False}))["tokens"]
    engine = await join(client, "a:1")
    await engine.stores(tokens[-8:])
    await engine.stores(tokens[:12])

    async def score(prompt: object, keep: int, **fields: object) -> object:
        body = {"prompt": prompt, "add_special_tokens": False, "truncate_prompt_tokens": keep, **fields}
        return await post(client, "/score", body)

    for prompt in (text, tokens):
        assert await score(prompt, 8) == {"a:1": 2}
        assert await score(prompt, 8, truncation_side="left") == {"a:1": 2}
        assert await score(prompt, 9) is None
        assert await score(prompt, 9, truncation_side="right") == {"a:1": 2}
        assert await score(prompt, -1) == {"a:1": 3}
        assert await score(prompt, 0) is None
    assert (await refused(client, "/score", {"prompt": text, "truncate_prompt_tokens": -2}))[
        1
    ] == "truncate_prompt_tokens"


async def test_score_and_score_completions_give_the_same_scores_for_a_chat(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    tokens = (await post(client, "/tokenize", CHAT))["tokens"]
    await (await join(client, "a:1")).stores(tokens)
    held = {"a:1": len(tokens) // 4}
    assert await post(client, "/score", CHAT) == held
    assert await post(client, "/score", {**CHAT, "prompt": None}) == held
    assert (await post(client, "/score_completions", CHAT))["pod_scores"] == held
    assert await post(client, "/score", {**CHAT, "cache_salt": "s"}) is None
    assert await post(client, "/score", {**CHAT, "pods": ["b:2"]}) is None
    assert (await refused(client, "/score", {**CHAT, "prompt": "a"}))[:2] == (400, "prompt")
    assert (await refused(client, "/score", {"messages": []}))[:2] == (400, "messages")
    assert await post(client, "/score", {"prompt": 'tell me of "messages"'}) is None


@pytest.mark.parametrize(
    "fields", [{"prompt_logprobs": 0}, {"prompt_logprob_token_ids": [7]}, {"echo": True, "logprobs": 1}]
)
async def test_a_request_that_skips_the_prefix_cache_has_no_score(
    serve: Serve, join: Join, fields: dict[str, object]
) -> None:
    client = await serve(block_size=4)
    tokens = list(range(8))
    await (await join(client, "a:1")).stores(tokens)
    assert await post(client, "/score", {"prompt": tokens, "logprobs": 1}) is not None
    assert await post(client, "/score", {"prompt": tokens, **fields}) is None


async def test_tiers_are_weighted(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4, tier_weights=TierWeights(cpu=0.5, storage=0.0))
    tokens = list(range(8))
    await (await join(client, "a:1")).stores(tokens, medium="CPU")
    await (await join(client, "b:2")).stores(tokens, medium="STORAGE")
    assert await post(client, "/score", {"prompt": tokens}) == {"a:1": 1}


async def test_token_ids_need_no_model(serve: Serve, join: Join) -> None:
    client = await serve()
    await (await join(client, "a:1", model="no such: model")).stores([1, 2, 3, 4])
    assert await post(client, "/score", {"prompt": [1, 2, 3, 4], "model": "no such: model"}) == {"a:1": 0.015625}
    assert (await refused(client, "/score", {"prompt": "text", "model": "no such: model"}))[:2] == (404, "model")


REFUSED: tuple[tuple[object, int, str], ...] = (
    ([], 400, "prompt"),
    ([[]], 400, "prompt"),
    ([[1], []], 400, "prompt"),
    ([1, "a"], 400, "prompt"),
    (["a", 1], 400, "prompt"),
    ([[1], "a"], 400, "prompt"),
    ([[1], 1], 400, "prompt"),
    ([True], 400, "prompt[0]"),
    ([-1], 400, "prompt[0]"),
    ([2**32], 400, "prompt[0]"),
    ([2**70], 400, "prompt[0]"),
    ([1.5], 400, "prompt[0]"),
    ([None], 400, "prompt[0]"),
    ({"a": 1}, 400, "prompt"),
    (None, 400, "prompt"),
    ("x" * 101, 413, "prompt"),
    (["x" * 60, "x" * 60], 413, "prompt"),
    ([1] * 51, 413, "prompt"),
    ([[1] * 30, [1] * 30], 413, "prompt"),
    ([[1]] * 6, 413, "prompt"),
)


async def test_an_invalid_or_too_large_prompt_is_rejected(serve: Serve, subtests: pytest.Subtests) -> None:
    client = await serve(max_prompt_characters=100, max_prompt_tokens=50, max_prompts=5)
    for prompt, status, param in REFUSED:
        with subtests.test(prompt=prompt):
            assert (await refused(client, "/score", {"prompt": prompt}))[:2] == (status, param)


async def test_score_completions_gives_the_rendered_text_and_the_messages_byte_for_byte(
    serve: Serve, join: Join
) -> None:
    client = await serve(block_size=4)
    tokens = (await post(client, "/tokenize", CHAT))["tokens"]
    await (await join(client, "a:1")).stores(tokens)
    messages = '[ {"role": "user","content":"h\\u00e9llo",  "x": [1.0, 12345678901234567890123, 1e5, null]} ]'
    async with client.post("/score_completions", data=f'{{"messages": {messages}}}') as answer:
        assert messages in await answer.text()
        found = await answer.json()
    assert found["pod_scores"] is None
    found = await post(client, "/score_completions", CHAT)
    assert found == {
        "pod_scores": {"a:1": len(tokens) // 4},
        "model": "builtin/demo",
        "rendered_template": found["rendered_template"],
        "original_messages": CHAT["messages"],
    }
    assert "What is a KV-cache" in found["rendered_template"]


async def test_a_chat_takes_salt_lora_and_pods(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    tokens = (await post(client, "/tokenize", CHAT))["tokens"][:8]
    await (await join(client, "salted:1")).stores(tokens, extra_keys=[["pepper"], None])
    await (await join(client, "tuned:2")).stores(tokens, lora_name="sql", extra_keys=[["sql"], ["sql"]])
    plain = await join(client, "plain:3")
    await plain.stores(tokens)

    async def scores(**fields: object) -> object:
        return (await post(client, "/score_completions", {**CHAT, **fields}))["pod_scores"]

    assert await scores() == {"plain:3": 2}
    assert await scores(cache_salt="pepper") == {"salted:1": 2}
    assert await scores(cache_salt="salt") is None
    assert await scores(lora_name="sql") == {"tuned:2": 2}
    assert await scores(model="sql") == {"tuned:2": 2}
    assert (await post(client, "/score_completions", {**CHAT, "model": "sql"}))["model"] == "sql"
    assert await scores(pods=["salted:1"]) is None


async def test_too_many_messages_parts_calls_tools_or_variables_are_rejected(serve: Serve) -> None:
    client = await serve(max_messages=2)
    hello = {"role": "user", "content": "Hello"}
    call = {"function": {"name": "f", "arguments": "{}"}}
    part = {"type": "text", "text": "a"}
    for fields, param in (
        ({"messages": [hello] * 3}, "messages"),
        ({"messages": [{"role": "user", "content": ["a", "b", "c"]}]}, "messages"),
        (
            {"messages": [{"role": "user", "content": ["a"]}, {"role": "assistant", "tool_calls": [call] * 2}]},
            "messages",
        ),
        ({"messages": [hello], "tools": [{"function": {"name": "f"}}] * 3}, "tools"),
        ({"messages": [hello], "chat_template_kwargs": {"a": 1, "b": 2, "c": 3}}, "chat_template_kwargs"),
    ):
        status, at, message = await refused(client, "/score_completions", fields)
        assert (status, at) == (413, param)
        assert "holds 3 " in message and "MAX_MESSAGES" in message
    await post(client, "/score_completions", {"messages": [hello, {"role": "user", "content": [part, part]}]})


async def test_explain_gives_every_rank_with_its_tiers_and_the_characters_that_match(serve: Serve, join: Join) -> None:
    client = await serve(block_size=4)
    text = "The quick brown fox jumps over the lazy dog, again and again."
    tokens = (await post(client, "/tokenize", {"prompt": text}))["tokens"]
    engine = await join(client, "a:1")
    other = await join(client, "b:2")
    await engine.stores(tokens[:8])
    await other.stores(tokens[:4], medium="CPU")
    found = await post(client, "/explain", {"prompt": text})
    assert found["tokens"] == len(tokens)
    assert found["text"] == text
    assert found["pod_scores"] == {"a:1": 2, "b:2": 0.8}
    first, second = found["matches"]
    assert (first["pod"], first["rank"], first["score"]) == ("a:1", 0, 2)
    assert (first["blocks"], first["matched_blocks"], first["matched_tokens"]) == (len(tokens) // 4, 2, 8)
    assert first["matched_tokens_by_tier"] == {"gpu": 8, "cpu": 0, "storage": 0}
    assert second["matched_tokens_by_tier"] == {"gpu": 0, "cpu": 4, "storage": 0}
    start = text[: first["matched_characters"]]
    assert 0 < len(text[: second["matched_characters"]]) < len(start) < len(text)
    assert (await post(client, "/tokenize", {"prompt": start}))["tokens"] == tokens[:8]


async def test_explain_lists_all_ranks_of_a_pod(play: Play) -> None:
    recorded = await play("g_dp", block_size=16)
    for probe, (_, held) in enumerate(recorded.truth.probes):
        found = await post(recorded.client, "/explain", asked(recorded, probe))
        assert found["text"] is None
        assert {(match["pod"], match["rank"]): match["matched_blocks"] for match in found["matches"]} == {
            (rank.pod, rank.number): blocks for rank, blocks in held.items() if blocks
        }
        assert all(match["matched_characters"] is None for match in found["matches"])


async def test_explain_takes_one_prompt_or_one_chat(serve: Serve) -> None:
    client = await serve()
    assert "What is a KV-cache" in (await post(client, "/explain", {**CHAT, "prompt": None}))["text"]
    assert (await refused(client, "/explain", {**CHAT, "prompt": "a"}))[:2] == (400, "prompt")
    assert (await refused(client, "/explain", {"prompt": ["a", "b"]}))[:2] == (400, "prompt")
    assert (await refused(client, "/explain", {}))[:2] == (400, "prompt")
