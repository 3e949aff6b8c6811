from __future__ import annotations

from itertools import islice

from service.simulation.conversations import Conversations, Turn


def turns(seed: int, count: int = 120) -> list[Turn]:
    conversations, played = Conversations(seed, concurrency=6), []
    for turn in islice(conversations, count):
        played.append(turn)
        conversations.answer(turn, reply_to(turn))
    return played


def reply_to(turn: Turn) -> str:
    return f"The answer to question {turn.number} of {turn.conversation}."


def test_only_equal_seeds_give_equal_conversations() -> None:
    assert turns(3) == turns(3)
    assert turns(3) != turns(4)


def test_each_turn_continues_the_conversation() -> None:
    last: dict[int, Turn] = {}
    for turn in turns(1):
        before = last.get(turn.conversation)
        if before is None:
            assert turn.number == 1
            assert [message["role"] for message in turn.messages] == ["system", "user"]
        else:
            assert turn.number == before.number + 1
            assert turn.messages[:-1] == [*before.messages, {"role": "assistant", "content": reply_to(before)}]
        last[turn.conversation] = turn


def test_conversations_interleave_and_share_few_system_prompts() -> None:
    played = turns(2)
    assert len({turn.conversation for turn in played[:20]}) > 3
    systems = {turn.messages[0]["content"] for turn in played}
    assert 1 < len(systems) < len({turn.conversation for turn in played})


def test_every_placeholder_of_a_phrase_is_filled() -> None:
    said = " ".join(message["content"] for turn in turns(5) for message in turn.messages)
    assert "{" not in said
    assert "}" not in said
