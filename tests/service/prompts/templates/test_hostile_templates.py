from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from service.prompts.chat import Chat
from service.prompts.errors import PromptError
from service.prompts.models.catalog import Models
from service.prompts.models.model import Model
from service.prompts.options import PromptOptions
from service.prompts.templates.environment import ChatEnvironment
from tests.conftest import BUILTIN
from tests.service.prompts.fake_hub import FakeHub, Repository
from tests.waiting import PATIENCE

SECONDS = 0.4
HELLO = [{"role": "user", "content": "hello"}]

ENDLESS = [
    "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "{% for a in range(99999)|list %}{% set b = range(99999)|map('string')|join %}{% endfor %}",
    "{% set ns = namespace(d={}) %}{% for i in range(60) %}{% set ns.d = {'a': ns.d, 'b': ns.d} %}"
    "{% endfor %}{{ ns.d|tojson }}",
    "{% for i in range(99999) %}{% for j in range(99999) %}{% set x = i * j %}{% endfor %}{% endfor %}",
    "{{ lipsum(n=100000) }}",
]
TOO_LARGE = [
    "{{ 'x' * 10**10 }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:>1000000000}'.format('x') }}",
    "{{ 'x'.center(10**10) }}",
    "{{ 'x'['ljust'](10**10) }}",
    "{{ 'x'|center(10**10) }}",
    "{{ 'x'|indent(10**10) }}",
    "{% filter center(10**10) %}x{% endfilter %}",
    "{% set f = 'x'.center %}{{ f(10**10) }}",
    "{{ (1).to_bytes(10**10, 'big') }}",
    "{{ ('x' * 1000000).replace('x', 'y' * 100000) }}",
    "{% set x = 'a' %}" + "{% set x = x + x %}" * 40 + "{{ x }}",
    "{% set x = 'a' %}" + "{% set x = x ~ x %}" * 40 + "{{ x }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% macro m(x, n) %}{{ m(x + x, n + 1) if n < 60 else x }}{% endmacro %}{{ m('ab', 0) }}",
    "{% set x %}{% for i in range(99999) %}{{ messages }}{% endfor %}{% endset %}{{ x * 1000 }}",
    "{{ (range(99999)|list * 99999)|length }}",
    "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
]
TOO_DEEP = [
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{{ m(n + 1) }}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "{{ 1" + " + 1" * 3000 + " }}",
    "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
]
FORBIDDEN = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ (messages|attr('__class__')).__base__.__subclasses__() }}",
    "{{ '{0.__class__.__mro__[1].__subclasses__}'.format(1)() }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ namespace(__class__=1) }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os.environ }}",
    "{% extends 'x' %}",
    "{{ range(10**12) }}",
    "{{ messages[0].content.x.y }}",
    "{{ nothing() }}",
    "{{ raise_exception('Only two roles, please') }}",
    "{% if %}",
    "{{ 'open",
    "{% nonsense %}",
    "{{ 1|nonsense }}",
    "{{ 1 is nonsense }}",
]


@pytest.fixture(scope="module")
def trusting() -> Iterator[Models]:
    """Models that take templates from requests; the same for all tests here, which must not break them."""
    models = Models(
        PromptOptions(trust_request_chat_template=True, render_timeout=SECONDS, max_prompt_characters=100_000)
    )
    yield models
    asyncio.run(models.close())


@pytest.fixture
async def model(trusting: Models) -> Model:
    return await trusting.get("builtin/demo")


@pytest.fixture(scope="module")
def patient_models() -> Iterator[Models]:
    """Models that take templates from requests, and give them all the time that a slow machine takes."""
    models = Models(PromptOptions(trust_request_chat_template=True, render_timeout=PATIENCE))
    yield models
    asyncio.run(models.close())


@pytest.fixture
async def patient(patient_models: Models) -> Model:
    return await patient_models.get("builtin/demo")


class Pulse:
    """Measures the longest slice of CPU time that the event loop's thread takes without giving others a turn."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._task = asyncio.create_task(self._beat())

    async def _beat(self) -> None:
        while True:
            before = time.thread_time()
            await asyncio.sleep(0.001)
            self.longest = max(self.longest, time.thread_time() - before)

    def stop(self) -> None:
        self._task.cancel()


@contextmanager
def pulse() -> Iterator[Pulse]:
    measured = Pulse()
    yield measured
    measured.stop()


async def refused(model: Model, template: str) -> str:
    with pytest.raises(PromptError) as caught:
        await model.render(Chat(messages=HELLO, chat_template=template))
    return caught.value.message


async def test_a_template_that_never_ends_is_ended_and_holds_up_nothing(model: Model) -> None:
    with pulse() as measured:
        for template in ENDLESS:
            assert f"longer than {SECONDS} s" in await refused(model, template), template
            rendered = await model.render(Chat(messages=HELLO))
            assert rendered.text.endswith("hello<|end|>\n<|role|>assistant<|say|>")
    assert measured.longest < 0.2


async def test_many_templates_that_never_end_are_ended(model: Model) -> None:
    messages = await asyncio.gather(*(refused(model, ENDLESS[0] + " " * n) for n in range(4)))
    assert all("longer than" in message for message in messages)


async def test_many_templates_that_do_not_end_yet_leave_others_alone() -> None:
    models = Models(PromptOptions(trust_request_chat_template=True, render_timeout=PATIENCE))
    try:
        model = await models.get("builtin/demo")
        endless = [
            asyncio.create_task(model.render(Chat(messages=HELLO, chat_template=ENDLESS[0] + " " * n)))
            for n in range(4)
        ]
        for _ in range(20):
            assert (await model.render(Chat(messages=HELLO))).tokens
        assert not any(task.done() for task in endless)
        for task in endless:
            task.cancel()
        await asyncio.gather(*endless, return_exceptions=True)
    finally:
        await models.close()


@pytest.mark.parametrize("template", TOO_LARGE, ids=range(len(TOO_LARGE)))
async def test_a_template_that_makes_too_much_is_refused(model: Model, template: str) -> None:
    with pulse() as measured:
        message = await refused(model, template)
    assert any(reason in message for reason in ("memory", "more than 100000 characters", "longer than")), message
    assert measured.longest < 0.2


@pytest.mark.parametrize("template", TOO_DEEP, ids=range(len(TOO_DEEP)))
async def test_a_template_that_goes_too_deep_is_refused(model: Model, template: str) -> None:
    message = await refused(model, template)
    assert any(reason in message for reason in ("too deeply", "indentation", "nested", "longer than")), message


@pytest.mark.parametrize("template", FORBIDDEN)
async def test_a_template_that_is_wrong_or_leaves_its_sandbox_is_refused(patient: Model, template: str) -> None:
    assert "the chat template failed: " in await refused(patient, template)


async def test_what_a_template_says_when_it_refuses_is_passed_on(patient: Model) -> None:
    message = await refused(patient, "{{ raise_exception('Only two roles, please') }}")
    assert message == "the chat template failed: Only two roles, please"


async def test_a_template_of_a_request_is_refused_unless_it_is_trusted(models: Models) -> None:
    model = await models.get("builtin/demo")
    for chat in (
        Chat(messages=HELLO, chat_template="hi"),
        Chat(messages=HELLO, chat_template_kwargs={"chat_template": "hi"}),
        Chat(messages=HELLO, chat_template=""),
    ):
        with pytest.raises(PromptError, match="TRUST_REQUEST_CHAT_TEMPLATE") as caught:
            await model.render(chat)
        assert caught.value.param == "chat_template"


async def test_the_template_of_a_model_that_a_stranger_chose_renders_in_a_process(hub: FakeHub) -> None:
    files = {path.name: path.read_bytes() for path in BUILTIN.iterdir()}
    hub.repositories["org/endless"] = Repository(files | {"chat_template.jinja": ENDLESS[3].encode()})
    hub.repositories["org/huge"] = Repository(files | {"chat_template.jinja": TOO_LARGE[0].encode()})
    models = Models(PromptOptions(models=("*",), render_timeout=SECONDS))
    try:
        with pulse() as measured:
            for name in ("org/endless", "org/huge"):
                with pytest.raises(PromptError, match=r"longer than|memory"):
                    await (await models.get(name)).render(Chat(messages=HELLO))
        assert measured.longest < 0.2
    finally:
        await models.close()


async def test_a_trusted_template_is_used_by_either_name(patient: Model) -> None:
    for chat in (
        Chat(messages=HELLO, chat_template="{{ messages[0].content }}!"),
        Chat(messages=HELLO, chat_template_kwargs={"chat_template": "{{ messages[0].content }}!"}),
    ):
        assert (await patient.render(chat)).text == "hello!"
    own = (await patient.render(Chat(messages=HELLO))).text
    assert (await patient.render(Chat(messages=HELLO, chat_template=""))).text == own


async def test_a_template_that_takes_long_but_not_too_long_is_rendered(patient: Model) -> None:
    template = "{% for i in range(20000) %}{{ loop.index0 % 7 }}{% endfor %}{{ 'x'|center(5) }}"
    expected = ChatEnvironment().from_string(template).render()
    assert (await patient.render(Chat(messages=HELLO, chat_template=template))).text == expected


async def test_a_conversation_with_a_lone_surrogate_is_refused(model: Model) -> None:
    with pytest.raises(PromptError, match="surrogate"):
        await model.render(Chat(messages=[{"role": "user", "content": "\ud800"}]))
    with pytest.raises(PromptError, match="surrogate"):
        await model.tokenize("\ud800")


async def test_variables_are_what_they_were_in_another_process(patient: Model) -> None:
    variables: dict[str, Any] = {
        "numbers": [1 << 62, 10**30, -(10**30), 1.5, 1e300, float("inf")],
        "order": {"z": None, "a": True, "": False},
        "text": "\x00é\u2028🚀",
    }
    template = "{{ [numbers, order, text] | tojson }}{{ 'x' | center(3) }}"
    for number in (10**30, 1):  # both ways of packing
        variables["numbers"][1] = number
        rendered = await patient.render(Chat(messages=HELLO, chat_template=template, chat_template_kwargs=variables))
        assert rendered.text == ChatEnvironment().from_string(template).render(variables)


async def test_a_conversation_of_many_small_things_does_not_hold_up_the_loop(patient: Model) -> None:
    documents = [{str(n): n} for n in range(300_000)]
    with pulse() as measured:
        chat = Chat(messages=HELLO, chat_template_kwargs={"all": documents})
        assert (await patient.render(chat)).text
    assert measured.longest < 0.5


async def test_a_process_that_renders_sees_nothing_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    models = Models(PromptOptions(trust_request_chat_template=True, render_timeout=PATIENCE))
    model = await models.get("builtin/demo")
    assert (await model.render(Chat(messages=HELLO, chat_template="{{ 'x'|center(3) }}"))).text == " x "
    processes = model._renderer._workers._processes
    assert processes
    for process in processes:
        assert process._process is not None
        environment = await asyncio.to_thread(Path(f"/proc/{process._process.pid}/environ").read_bytes)
        assert environment and b"hf_secret" not in environment
    await models.close()


async def test_a_process_that_died_meanwhile_is_replaced(patient: Model) -> None:
    chat = Chat(messages=HELLO, chat_template="{{ 'x'|center(3) }}")
    await patient.render(chat)
    for process in patient._renderer._workers._processes:
        assert process._process is not None
        os.kill(process._process.pid, 9)
        process._process.wait()
    assert (await patient.render(chat)).text == " x "
