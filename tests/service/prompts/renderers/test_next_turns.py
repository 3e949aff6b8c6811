"""The next turn of a chat, rendered from caches, equals the same chat rendered anew, with every renderer."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from tests.conftest import BUILTIN
from tests.service.prompts.texts import random_text
from tests.tries import only_thorough, tries

CHATS = tries(3, 12)
LOOK_ALIKES = ["</s>", "<|end|>", "<|start|>", "[INST]", "[/INST]", "<|channel|>", "<s>"]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


# The vocabularies of the others take seconds to read; what each caches is tested beside it, too.
@pytest.fixture(params=["template", *(pytest.param(name, marks=only_thorough) for name in ("harmony", "mistral"))])
async def twins(request: pytest.FixtureRequest, shared: Path) -> AsyncIterator[tuple[Model, Model]]:
    """A model that caches, and the same without a cache."""
    folder, package = {
        "template": (BUILTIN, "jinja2"),
        "harmony": (shared / "models" / "openai" / "gpt-oss-20b", "openai_harmony"),
        "mistral": (shared / "models" / "mistralai" / "Mistral-Nemo-Instruct-2407", "mistral_common"),
    }[request.param]
    pytest.importorskip(package, reason=f"{package} is not installed")
    both = [Models(PromptOptions(models_dir=folder.parent, token_cache_bytes=size)) for size in (1 << 20, 0)]
    cached, anew = [await models.get(folder.name) for models in both]
    assert cached.renderer_name == request.param
    yield cached, anew
    for models in both:
        await models.close()


def turns(random_: random.Random) -> Iterator[dict[str, Any]]:
    """The requests of a chat, turn by turn; some turns go back, and take another way."""
    tools = {"tools": [TOOL]} if random_.random() < 0.4 else {}
    messages: list[dict[str, Any]] = []
    if random_.random() < 0.5:
        messages.append({"role": "system", "content": text(random_)})
    for number in range(random_.randrange(2, 9)):
        messages.append({"role": "user", "content": text(random_)})
        yield {"messages": list(messages), **tools}
        if tools and random_.random() < 0.5:
            call = {"id": f"call{number:05}", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            messages += [
                {"role": "assistant", "content": "", "reasoning": text(random_), "tool_calls": [call]},
                {"role": "tool", "tool_call_id": call["id"], "content": text(random_)},
            ]
            yield {"messages": list(messages), **tools}
        messages.append({"role": "assistant", "content": text(random_) or "x"})
        if random_.random() < 0.2:
            yield {"messages": list(messages), "add_generation_prompt": False, "continue_final_message": True, **tools}
        if len(messages) > 4 and random_.random() < 0.2:
            del messages[-2:]


def text(random_: random.Random) -> str:
    return random_text(random_, LOOK_ALIKES)


async def test_the_next_turn_equals_the_chat_rendered_anew(twins: tuple[Model, Model]) -> None:
    cached, anew = twins
    taken = 0
    for fields in (fields for seed in range(CHATS) for fields in turns(random.Random(seed))):
        chat = Chat(**fields)
        try:
            expected = await anew.render(chat)
        except PromptError:
            with pytest.raises(PromptError):
                await cached.render(chat)
            continue
        taken += 1
        for _ in range(2):
            assert await cached.render(chat) == expected, fields
    assert taken > CHATS
