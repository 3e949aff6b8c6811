from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from service.prompts.templates.environment import ChatEnvironment
from service.prompts.templates.inline_environment import InlineEnvironment, OverBudget
from service.prompts.templates.rendering import Renderer, TemplateSource
from tests.service.prompts.conversations import DOCUMENTS, WEATHER
from tests.service.prompts.oracle import compiled_by_transformers

VARIABLES: dict[str, Any] = {
    "messages": [
        {"role": "system", "content": "Be  brief.\n"},
        {"role": "user", "content": "Hi <b>'x'</b> & ü"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, None, True]}}}],
        },
    ],
    "tools": [WEATHER],
    "documents": DOCUMENTS,
    "bos_token": "<s>",
    "n": 3,
}
USUAL = [
    "{{ bos_token }}{% for m in messages %}{{ m.role ~ ': ' ~ m['content'] | trim }}{% if not loop.last %}"
    ", {% endif %}{% endfor %}",
    "{% set ns = namespace(n=0, s='') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.s = ns.s + m.role %}{% endfor %}{{ ns.n }}{{ ns.s }}",
    "{{ tools | tojson(indent=2) }}{{ messages[2].tool_calls[0].function.arguments | tojson }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | join(', ') }}",
    "{% macro line(m, mark='-') %}{{ mark }} {{ m.content }}{{ caller() if caller else '' }}{% endmacro %}"
    "{{ line(messages[0]) }}"
    "{% call line(messages[1], mark='*') %}!{% endcall %}",
    "{% generation %}{{ messages[1].content }}{% endgeneration %}",
    "{% for m in messages if m.role != 'system' %}{{ loop.index }}{% else %}none{% endfor %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}",
    "{{ messages[0].content.split('b')[0].strip().upper().startswith('BE') }}{{ messages[::-1][0].role }}{{ n % 2 }}",
    "{% set x %}a{{ n }}{% endset %}{{ x }}{{ x | length }}{{ missing is defined }}{{ missing }}{{ none }}"
    "{{ [1, 'a'] }}",
    "{% for key, value in tools[0].function.items() %}{{ key }}={{ value | string | length }};{% endfor %}",
    "{% with a = 1, b = 'x' %}{{ a + n }}{{ b + b }}{% endwith %}{{ 'yes' if n > 2 else 'no' }}{{ range(3) | list }}",
    "{{ (messages[0].content or '') + '' }}{{ documents[0].title | default('none') }}{{ -n + 1.5 }}",
    "{% if 'tool_calls' in messages[2] and messages[2]['tool_calls'] is iterable %}"
    "{{ messages[2].tool_calls | length }}{% endif %}",
    "{% for m in messages %}{{ [loop.index, loop.index0, loop.revindex, loop.revindex0, loop.first, loop.last] }}"
    "{{ [loop.length, loop.depth, loop.depth0] }}{{ loop.previtem }}{{ loop.nextitem }}"
    "{% for key in m %}{{ loop.index }}{{ loop.previtem is defined }}{% endfor %}{{ loop.nextitem is defined }}"
    "{% endfor %}{{ loop.last if loop else loop }}",
    "{% for m in messages %}{{ loop }}{{ loop['index'] }}{{ loop.index }}{{ loop.length }}{% endfor %}",
    "{% for m in messages[1:] %}{{ m.name }}{{ m['name'] }}{{ m.name is defined }}{{ m['role'] }}{{ m.get('role') }}"
    "{{ m['items'] is callable }}{{ m.keys() | list }}{{ m['content'].upper() }}{{ m['content']['upper']() }}"
    "{% endfor %}",
    "{% set loop = messages[0] %}{{ loop.role }}{{ loop.last }}{% for m in messages %}{{ loop.last }}{% endfor %}",
    "{% set ns = namespace(role='x') %}{{ ns.role }}{{ ns['role'] }}{{ ns.other is defined }}{{ 'x'.role }}",
]
UNUSUAL = [
    "{{ 'x' * n }}",
    "{{ n ** 2 }}",
    "{{ '%s' % n }}",
    "{{ 'x'.replace('x', 'y') }}",
    "{{ 'x' | replace('x', 'y') }}",
    "{{ '{}'.format(n) }}",
    "{{ [messages, messages] }}",
    "{{ (messages, n) }}",
    "{{ {'a': messages} }}",
    "{{ messages + messages }}",
    "{{ dict(a=1) }}",
    "{{ namespace(a=namespace()) }}",
    "{% set ns = namespace() %}{% set ns.ns = ns %}",
    "{% macro m() %}{{ varargs }}{% endmacro %}{{ m(1) }}",
    "{% for m in messages recursive %}{% endfor %}",
    "{{ lipsum(n=0) }}",
    "{{ cycler(1, 2).next() }}",
    "{{ loop.cycle(1) if loop else n.bit_length() }}",
    "{{ tools | tojson(indent=99) }}",
    "{{ strftime_now('%Y' * 99) }}",
    "{% for m in messages %}{{ loop.cycle(1, 2) }}{% endfor %}",
    f"{{% if not n %}}{{{{ n{'.x' * 150} }}}}{{% endif %}}",
]


@pytest.mark.parametrize("template", USUAL + UNUSUAL)
def test_a_template_renders_on_the_event_loop_as_transformers_renders_it(template: str) -> None:
    inline = InlineEnvironment(100_000)
    expected = outcome(lambda: compiled_by_transformers(template).render(VARIABLES))
    assert outcome(lambda: inline.render(inline.from_string(template), VARIABLES)) == expected


def outcome(render: Callable[[], str]) -> str | type[Exception]:
    """The text, or the kind of error."""
    try:
        return render()
    except Exception as error:
        return type(error)


@pytest.mark.parametrize("text", ["{{ 'x' * 1001 }}", "{% for n in range(1001) %}x{% endfor %}"])
def test_a_text_that_is_too_long_is_refused_on_the_event_loop(text: str) -> None:
    inline = InlineEnvironment(1000)
    for template in (text, "{% macro m() %}" + text + "{% endmacro %}{{ m() | length }}"):
        with pytest.raises(ValueError, match="more than 1000 characters"):
            inline.render(inline.from_string(template), {})


@pytest.mark.parametrize(
    "template",
    [
        "{% for n in range(99999) %}{{ n }}{% endfor %}",
        "{% macro m() %}x{% endmacro %}{% for n in range(99999) %}{% set x = m() %}{% endfor %}",
    ],
)
def test_a_rendering_that_takes_long_leaves_the_event_loop(template: str) -> None:
    inline = InlineEnvironment(10_000_000, budget_seconds=0.001)
    with pytest.raises(OverBudget):
        inline.render(inline.from_string(template), {})


def test_large_or_deep_variables_leave_the_event_loop() -> None:
    inline = InlineEnvironment(10_000_000)
    template = inline.from_string("{{ messages[0].content | length }}")
    with pytest.raises(OverBudget):
        inline.render(template, {"messages": [{"content": "x" * 1_100_000}]})
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(OverBudget):
        inline.render(template, {"messages": deep})


async def test_a_rendering_that_left_the_event_loop_gives_the_same_text() -> None:
    template = TemplateSource("{% for n in range(99999) %}{{ n % 7 }}{% endfor %}", trusted=True)
    renderer = Renderer(timeout=30.0, max_characters=1_000_000)
    try:
        text = await renderer.render(await renderer.template(template), {})
        assert text == ChatEnvironment().from_string(template.text).render()
    finally:
        await renderer.close()


async def test_a_template_that_held_the_event_loop_is_rendered_in_a_process_from_then_on() -> None:
    source = TemplateSource("{% set c = messages[0].content %}" + "{{ c|upper|length }} " * 140, trusted=True)
    variables = {"messages": [{"role": "user", "content": "ß" * 120_000}]}
    renderer = Renderer(timeout=30.0, max_characters=1_000_000)
    try:
        template = await renderer.template(source)
        assert template.inline is not None
        assert await renderer.render(template, variables) == "240000 " * 140
        template = await renderer.template(source)
        assert template.inline is None
        assert await renderer.render(template, variables) == "240000 " * 140
    finally:
        await renderer.close()
