from __future__ import annotations

from itertools import islice

from service.simulation.conversations import Conversations, Turn


def turns(seed: int, count: int = 120) -> list[Turn]:
    return list(islice(Conversations(seed, at_once=6), count))


def test_equal_seeds_give_equal_conversations_and_others_give_others() -> None:
    assert turns(3) == turns(3)
    assert turns(3) != turns(4)


def test_each_turn_goes_on_where_the_one_before_it_ended() -> None:
    last: dict[int, Turn] = {}
    for turn in turns(1):
        before = last.get(turn.conversation)
        if before is None:
            assert turn.number == 1
            assert [message["role"] for message in turn.messages] == ["system", "user"]
        else:
            assert turn.number == before.number + 1
            assert turn.messages[:-1] == [*before.messages, {"role": "assistant", "content": before.reply}]
        last[turn.conversation] = turn


def test_several_conversations_go_on_at_once_and_share_few_system_prompts() -> None:
    played = turns(2)
    assert len({turn.conversation for turn in played[:20]}) > 3
    systems = {turn.messages[0]["content"] for turn in played}
    assert 1 < len(systems) < len({turn.conversation for turn in played})


def test_no_sentence_holds_a_gap_that_was_to_be_filled() -> None:
    said = " ".join(message["content"] for turn in turns(5) for message in turn.messages)
    assert "{" not in said
    assert "}" not in said
