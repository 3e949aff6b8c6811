from __future__ import annotations

import json
import os
import sys
from array import array
from collections.abc import Callable, Iterable
from random import Random
from typing import Any

import msgspec
import pytest

from service.index.base import Removed, Stored, Tier
from service.native import backend, fallback
from tests.tries import tries

if not backend.COMPILED and os.environ.get("KVCACHE_BACKEND") != "fallback" and os.environ.get("CI"):
    pytest.fail("the inner loops are not compiled: make .venv/native")
compiled = pytest.mark.skipif(not backend.COMPILED, reason="the inner loops are not compiled")

EDGES = (0, 1, -1, 2**63 - 1, -(2**63))


def numbers(random: Random, count: int) -> list[int]:
    few = (*EDGES, *range(100))
    return [random.getrandbits(64) - 2**63 if random.random() < 0.8 else random.choice(few) for _ in range(count)]


def answer(function: Callable[..., Any], *arguments: Any) -> Any:
    found = function(*arguments)
    return list(found) if isinstance(found, Iterable) else found


@compiled
@pytest.mark.parametrize("block_size", [*range(1, 20), 64, 256])
def test_compiled_block_keys_equal_those_of_the_fallback(block_size: int) -> None:
    random = Random(block_size)
    tokens = random.randbytes(4 * block_size * 5 + 4 * (block_size // 2))
    for parent in (0, 1, 2**60 - 1, random.getrandbits(60)):
        keys = list(backend.block_keys(parent, tokens, 4 * block_size))
        assert keys == fallback.block_keys(parent, tokens, 4 * block_size)
        assert len(keys) == 5
        assert all(0 <= key < 2**60 for key in keys)


@compiled
@pytest.mark.parametrize("seed", range(3))
def test_a_compiled_table_behaves_as_a_dict(seed: int) -> None:
    random = Random(seed)
    table, same = backend.Table(), fallback.Table()
    names = numbers(random, 70_000)
    for step, name in enumerate(names):
        if random.random() < 0.9:
            table.put(name, step)
            same.put(name, step)
        else:
            gone = random.choice(names)
            table.forget(gone)
            same.forget(gone)
        assert table.get(name) == same.get(name)
    assert len(table) == len(same) > 16_384  # several shards
    assert sorted(value for _, value in table.items()) == sorted(same.values())
    assert all(table.get(name) == same.get(name) and (name in table) == (name in same) for name in names)


@compiled
@pytest.mark.parametrize("seed", range(20))
def test_compiled_costs_of_ranks_equal_those_of_the_fallback(seed: int) -> None:
    random = Random(seed)
    ranks: list[fallback.RankLoad] = []
    same: list[fallback.RankLoad] = []
    for _ in range(random.randrange(1, 200)):
        speed = random.choice((0.0, 0.01)), random.choice((1e-4, 2e-4)), random.choice((1.0, 1.0, 4.0))
        state = (
            random.random() < 0.5,
            random.choice((-float("inf"), random.random(), 2 + random.random())),
            random.random(),
            random.randrange(2),
            random.choice((0.0, 1.0)),
        )
        for kind, made in ((backend.RankLoad, ranks), (fallback.RankLoad, same)):
            rank = kind(*speed)
            rank.is_busy, rank.finish, rank.behind, rank.requests, rank.last_prefill = state
            made.append(rank)
    by_bit = [random.choice((None, random.randrange(len(ranks)))) for _ in range(150)]
    held = [(random.getrandbits(150), random.choice((1.0, 512.0))) for _ in range(3)]
    out = [position for position in range(len(ranks)) if random.random() < 0.2]
    found = []
    for of, module in ((ranks, backend), (same, fallback)):
        costs = module.RankCosts(of, 8000.0)
        for mask, uncached in held:
            costs.hold(mask, module.Positions(by_bit), uncached)
        costs.set_uncached(0, 7.0)
        costs.weigh(0.3, 0.2, 1.0)
        costs.rule_out(out)
        places = range(len(of))
        found.append(
            (
                [costs.bit(place) for place in places],
                [costs.uncached(place) for place in places],
                [costs.cost(place) for place in places],
                [costs.best(1.1, chance / 10) for chance in range(10)],
            )
        )
    assert found[0][2] == pytest.approx(found[1][2], rel=1e-12)
    assert found[0][:2] == found[1][:2]
    assert found[0][3] == found[1][3]


@compiled
def test_costs_of_unknown_groups_and_positions_are_refused() -> None:
    for kind in (backend, fallback):
        costs = kind.RankCosts([kind.RankLoad(0.0, 1e-4)], 1.0)
        with pytest.raises(ValueError, match="bit 2 has no position"):
            costs.hold(0b100, kind.Positions([0, None]), 1.0)
        with pytest.raises(IndexError):
            costs.cost(1)


@compiled
def test_a_shrinking_table_still_finds_all_its_entries() -> None:
    random = Random(4)
    names = list({*numbers(random, 50_000)})
    table = backend.Table()
    for name in names:
        table.put(name, 1)
    random.shuffle(names)
    while names:
        table.forget(names.pop())
        assert len(table) == len(names)
        assert not names or names[-1] in table


@compiled
@pytest.mark.parametrize("count", [0, 5, 1000, 40_000])
def test_draining_a_table_gives_every_value_once(count: int) -> None:
    table = backend.Table()
    for name in range(count):
        table.put(name * 2**20, name)
    found: list[int] = []
    while len(table):
        values = list(table.drain(700))
        assert 0 < len(values) <= 700
        found += values
    assert sorted(found) == list(range(count))


@compiled
def test_the_oldest_keys_are_those_inserted_first() -> None:
    table = backend.Table()
    for name in range(1000, 2000):
        table.put(name, 0)
    for name in range(1000, 1100, 2):
        table.forget(name)
    assert table.oldest(3) == [1001, 1003, 1005]
    assert list(table.take_oldest(50)) == [0] * 50
    assert table.oldest(2) == [1100, 1101]
    assert len(table.oldest(10_000)) == len(table)


@compiled
@pytest.mark.parametrize("seed", range(5))
def test_compiled_group_masks_equal_those_of_the_fallback(seed: int) -> None:
    random = Random(seed)
    masks = backend.GroupMasks(), fallback.GroupMasks()
    groups = [1 << number for number in (0, 1, 2, 63, 64, 900)]
    tables = [(backend.Table(), fallback.Table()) for _ in groups]
    keys = [random.getrandbits(60) for _ in range(300)]
    for _ in range(1500):
        number = random.randrange(len(groups))
        bit = groups[number]
        start = random.randrange(len(keys))
        run = keys[start : start + random.randrange(1, 40)]
        match random.randrange(5):
            case 0 | 1:
                names = [key ^ number for key in run]
                both = [
                    mask.add(bit, table, kind.as_key_vector(names), kind.as_key_vector(run))
                    for mask, table, kind in zip(masks, tables[number], (backend, fallback), strict=True)
                ]
                assert both[0] == both[1]
            case 2:
                for key in run:
                    assert masks[0].discard(bit, key) == masks[1].discard(bit, key)
                    for table in tables[number]:
                        table.forget(key ^ number)
            case 3:
                for mask, kind in zip(masks, (backend, fallback), strict=True):
                    mask.discard_all(bit, kind.as_key_vector(run))
            case _:
                for mask in masks:
                    mask.set(bit, run[0])
        asked = random.sample(keys, 5) + keys[start : start + 20]
        wanted = random.getrandbits(1000)
        assert masks[0].prefix(backend.as_key_vector(asked), wanted) == masks[1].prefix(asked, wanted)
        assert masks[0].spans(backend.as_key_vector(asked)) == masks[1].spans(asked)
        assert len(masks[0]) == len(masks[1])
    assert sorted(masks[0].items()) == sorted(masks[1].items())
    assert all(masks[0].get(key) == masks[1].get(key) for key in keys)


@compiled
@pytest.mark.parametrize("seed", range(5))
def test_compiled_orders_of_pods_score_as_those_of_the_fallback(seed: int) -> None:
    random = Random(seed)
    orders = backend.PodOrder([]), fallback.PodOrder([])
    pods: list[str] = []
    for _ in range(20):
        pods += [f"10.0.0.{random.randrange(300)}:8000" for _ in range(random.randrange(20))]
        if pods:
            pods[random.randrange(len(pods))] = "other"
        orders = backend.PodOrder(pods, orders[0].names), fallback.PodOrder(pods, orders[1].names)
        assert orders[0].names == orders[1].names == sorted(set(pods))
        found: tuple[dict[str, float], dict[str, float]] = ({}, {})
        for score in (3, 2.5, 1):
            mask, most = random.getrandbits(len(pods)) if pods else 0, random.randrange(100)
            for order, scores in zip(orders, found, strict=True):
                order.add_scores(scores, mask, score, most)
        assert list(found[0].items()) == list(found[1].items())
    for order in orders:
        with pytest.raises(ValueError, match=f"bit {len(pods) + 70} has no pod"):
            order.add_scores({}, 1 << (len(pods) + 70), 1, 1)


@compiled
@pytest.mark.parametrize("at_lines", [False, True])
@pytest.mark.parametrize("in_runs", [False, True])
def test_compiled_words_equal_those_of_the_fallback(at_lines: bool, in_runs: bool) -> None:
    random = Random(3)
    characters = " \n\nabZ  5(~\x7f\x1f\t\rяЯАёЁ가一龥。，！？：；）;é😀\ud800"
    for _ in range(tries(1_000, 20_000)):
        text = "".join(random.choice(characters) for _ in range(random.randrange(12)))
        words = backend.split_words(text, at_lines, in_runs)
        assert words == fallback.split_words(text, at_lines, in_runs)
        assert "".join(words) == text


@compiled
def test_no_call_leaks_memory() -> None:
    names = list(range(1, 33))
    tokens, body = bytes(64 * 32), b'{"prompt":[1,2,3]}'
    packed = msgspec.msgpack.encode(names)
    stored = {"type": "BlockStored", "block_hashes": names, "token_ids": names, "block_size": 1, "lora_name": "sql"}
    batch = msgspec.msgpack.encode([1.5, [stored, {"type": "BlockRemoved", "block_hashes": names}], 0])
    mask, table = backend.GroupMasks(), backend.Table()
    as_key_vector = backend.as_key_vector
    calls: list[Callable[[], object]] = [
        lambda: backend.block_keys(5, tokens, 64),
        lambda: backend.unpack_hashes(packed),
        lambda: backend.unpack_tokens(packed),
        lambda: backend.prompt_ids(body),
        lambda: backend.prompt_ids(b'{"prompt":[[1,2],[3]]}'),
        lambda: backend.prompt_ids(b'{"prompt":[[1,2],3]}'),
        lambda: backend.split_words("a b  c\nd", True, True),
        lambda: backend.read_common_batch(batch, Stored, Removed, Tier.GPU),
        lambda: backend.read_common_batch(batch[:-5], Stored, Removed, Tier.GPU),
        lambda: backend.read_common_batch(batch[:150], Stored, Removed, Tier.GPU),
        lambda: mask.add(1, table, as_key_vector(names), as_key_vector(names)),
        lambda: mask.prefix(as_key_vector(names), 1),
        lambda: mask.spans(as_key_vector(names)),
        lambda: mask.discard_all(2, as_key_vector(names)),
        lambda: mask.discard(4, 5),
        lambda: backend.Table().drain(5),
        lambda: backend.PodOrder(["a", "b"]).add_scores({}, 3, 1.5, 5),
    ]
    for call in calls:
        call()
        before = sys.getallocatedblocks()
        for _ in range(1000):
            call()
        assert sys.getallocatedblocks() - before < 500


@compiled
def test_compiled_msgpack_integers_equal_those_of_the_fallback() -> None:
    random = Random(6)
    pack = msgspec.msgpack.encode
    values = [
        *range(-200, 300),
        *(sign * 2**power + off for power in range(64) for off in (-1, 0, 1) for sign in (1, -1)),
    ]
    values = [value for value in values if -(2**63) <= value < 2**64]
    for count in (0, 1, 15, 16, 70_000):
        packed = pack([random.choice(values) for _ in range(count)])
        assert answer(backend.unpack_hashes, packed) == fallback.unpack_hashes(packed)
    for value in (*values, 1.5, "a", b"a", None, True, [1], {}):
        packed = pack([1, value])
        assert answer(backend.unpack_hashes, packed) == fallback.unpack_hashes(packed)
        small = not isinstance(value, int) or isinstance(value, bool) or value < 0 or value >= 2**32
        assert backend.unpack_tokens(packed) == (None if small else array("I", [1, int(value)]))
    for other in (None, 5, "x", {"a": 1}):
        assert backend.unpack_hashes(pack(other)) is None
        assert backend.unpack_tokens(pack(other)) is None


@compiled
@pytest.mark.parametrize("form", [{}, {"separators": (",", ":")}, {"indent": 2}])
def test_token_ids_found_in_a_body_equal_those_of_a_json_decoder(form: dict[str, Any]) -> None:
    random = Random(7)
    for _ in range(500):
        ids = [
            random.choice((random.randrange(10), 10 ** random.randrange(10), random.getrandbits(32))) for _ in range(30)
        ]
        ids = ids[: random.randrange(1, 30)]
        other = {"model": 'a"[\\x', "o": {"prompt": [1, "]"]}}
        body = json.dumps({**other, "prompt": ids, "pods": ["a"]}, **form).encode()
        found = backend.prompt_ids(body)
        assert found is not None
        tokens, start, end = found
        assert isinstance(tokens, array)
        assert tokens.tolist() == ids == json.loads(body[start:end])


@compiled
@pytest.mark.parametrize("form", [{}, {"separators": (",", ":")}, {"indent": 2}])
def test_token_ids_of_several_prompts_equal_those_of_a_json_decoder(form: dict[str, Any]) -> None:
    random = Random(8)
    for _ in range(300):
        prompts = [
            [random.getrandbits(random.randrange(1, 33)) for _ in range(random.randrange(1, 20))]
            for _ in range(random.randrange(1, 6))
        ]
        body = json.dumps({"model": "a", "prompt": prompts, "pods": [["b"]]}, **form).encode()
        found = backend.prompt_ids(body)
        assert found is not None
        tokens, start, end = found
        assert [one.tolist() for one in tokens] == prompts == json.loads(body[start:end])  # type: ignore[union-attr]
        for cut in range(len(body)):
            backend.prompt_ids(body[:cut])


@compiled
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"{",
        b'{"a":1}',
        b'{"a":"\\',
        b'{"prompt"',
        b'{"prompt":',
        b'{"prompt":[',
        b'{"prompt":[1',
        b'{"prompt":[]}',
        b'{"prompt":[1,]}',
        b'{"prompt":[1,,2,3,4,5,6]}',
        b'{"prompt":[1 2]}',
        b'{"prompt":[\x011,2222222]}',
        b'{"prompt":[01]}',
        b'{"prompt":[0000001,2,3]}',
        b'{"prompt":[-1,2222222]}',
        b'{"prompt":[12.5,2222222]}',
        b'{"prompt":[1e5,2222222]}',
        b'{"prompt":[4294967296]}',
        b'{"prompt":[99999999999999999999999999]}',
        b'{"prompt":[[]]}',
        b'{"prompt":[[1],]}',
        b'{"prompt":[[1],2]}',
        b'{"prompt":[1,[2]]}',
        b'{"prompt":[[1] [2]]}',
        b'{"prompt":[[[1]]]}',
        b'{"prompt":[["a"]]}',
        b'{"prompt":[[1]',
        b'{"prompt":[[1],',
        b'{"prompt":[[1]],"prompt":[2]}',
        b'{"prompt":[true]}',
        b'{"prompt":"text"}',
        b'{"\\u0070rompt":[1]}',
        b'{"prompt":[1],"prompt":[2]}',
        b'{"prompt":[1],"\\u0070rompt":[2]}',
    ],
)
def test_other_forms_of_prompts_are_left_to_the_json_decoder(body: bytes) -> None:
    assert backend.prompt_ids(body) is None
    assert fallback.prompt_ids(body) is None


@compiled
def test_the_compiled_check_for_text_only_chats_equals_that_of_the_fallback() -> None:
    random = Random(3)
    fields: tuple[tuple[str, tuple[Any, ...]], ...] = (
        ("role", ("user", "assistant", "system", "tool", "", None, 1, ["user"])),
        ("content", ("", "text", "ä", "billing: x", None, [], [{"type": "text"}], 1)),
        ("name", ("x", None)),
    )
    seen = set()
    for _ in range(tries(1_000, 20_000)):
        message = {field: random.choice(values[:4] if random.random() < 0.8 else values) for field, values in fields}
        if random.random() < 0.9:
            del message["name"]
        names = list(message)
        if random.random() < 0.1:
            random.shuffle(names)
        if random.random() < 0.1:
            names.pop()
        chat = [{"role": "user", "content": "x"}] * random.randrange(2) + [{name: message[name] for name in names}]
        expected = fallback.is_text_only(chat, "billing")
        assert backend.is_text_only(chat, "billing") is expected, chat
        seen.add(expected)
    assert seen == {True, False}
    assert backend.is_text_only([], "billing") is fallback.is_text_only([], "billing") is True


@compiled
@pytest.mark.parametrize("count", [0, 1, 5000, 60_000])
def test_a_table_that_takes_over_slices_has_the_same_shards_and_the_same_oldest_keys(count: int) -> None:
    random = Random(count)
    names = list({*numbers(random, count)})
    table, copy = backend.Table(), backend.Table()
    for name in names:
        table.put(name, random.getrandbits(60))
    for name in names[::3]:
        table.forget(name)
    copy.shape(table.shards())
    for hashes, keys in table.slices():
        copy.put_all(backend.unpack_numbers(hashes), backend.unpack_numbers(keys))
    assert copy.shards() == table.shards()
    assert sorted(copy.items()) == sorted(table.items())
    assert copy.oldest(1000) == table.oldest(1000)


@compiled
def test_shards_that_are_no_directory_are_ignored() -> None:
    table = backend.Table()
    for shards in ([], [(0, 1), (0, 1), (0, 1)], [(1, 5), (0, 5)], [(5, 1)], [(-1, 1)]):
        table.shape(shards)
        assert table.shards() == [(0, 0)]
    table.put(1, 2)
    table.shape([(1, 5), (1, 5)])
    assert table.items() == [(1, 2)]


@compiled
def test_groups_of_many_keys_at_once_are_those_of_the_fallback() -> None:
    random = Random(1)
    masks = backend.GroupMasks(), fallback.GroupMasks()
    keys = numbers(random, 20_000)
    for bit in (1, 1 << 3, 1 << 90):
        some = random.sample(keys, 8000)
        added = [each.set_all(bit, backend.as_key_vector(some) if each is masks[0] else some) for each in masks]
        assert added[0] == added[1] <= len(some)
        held = [each.holds(bit, backend.as_key_vector(keys) if each is masks[0] else keys) for each in masks]
        assert held[0] == held[1]
    assert [masks[0].get(key) for key in keys] == [masks[1].get(key) for key in keys]
