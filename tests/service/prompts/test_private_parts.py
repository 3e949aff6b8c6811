"""The private parts of libraries that prompts rely on. pyproject.toml bounds these libraries; raise a bound only after
looking at what the failing test names."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from tokenizers import Regex, normalizers, pre_tokenizers

from service.prompts.templates.environment import ChatEnvironment


def test_jinja2_keeps_the_values_of_a_namespace_under_the_name_that_environment_py_reads() -> None:
    namespace = Namespace({"a": 1})
    assert object.__getattribute__(namespace, "_Namespace__attrs") == {"a": 1}


def test_jinja2_calls_with_the_keywords_that_environment_py_removes() -> None:
    seen: list[set[str]] = []

    class Environment(ImmutableSandboxedEnvironment):
        def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
            seen.append(set(kwargs))
            return super().call(context, obj, *args, **kwargs)

    Environment().from_string("{% for x in [1] %}{{ 'a'.upper() }}{% endfor %}").render()
    assert seen == [{"_loop_vars"}]


def test_jinja2_compiles_reads_of_fields_to_the_calls_that_field_reads_py_replaces() -> None:
    code = str(ImmutableSandboxedEnvironment().compile("{{ m.role }}{{ m['role'] }}", raw=True))
    assert "environment.getattr(" in code and "environment.getitem(" in code
    assert "missing=missing" in code  # a local name of the compiled template
    assert {"visit_Getattr", "visit_Getitem"} <= set(dir(CodeGenerator))
    assert {"node", "attr"} <= set(nodes.Getattr.fields) and {"node", "arg"} <= set(nodes.Getitem.fields)


def test_jinja2_joins_the_output_of_macros_with_the_environments_concat() -> None:
    environment = ChatEnvironment()
    joined: list[str] = []

    def concat(pieces: Any) -> str:
        joined.append("".join(pieces))
        return joined[-1]

    environment.concat = concat  # type: ignore[method-assign]
    template = environment.from_string("{% macro m() %}x{% endmacro %}{{ m() }}")
    assert "".join(template.root_render_func(template.new_context({}))) == "x"
    assert joined == ["x"]


@pytest.mark.parametrize(
    "component",
    [
        pre_tokenizers.Split(Regex("a"), "isolated"),
        pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]),
        normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()]),
    ],
)
def test_tokenizers_gives_the_state_of_a_component_as_the_json_that_segmentation_py_reads(component: Any) -> None:
    state = json.loads(component.__getstate__())
    assert state["type"] in ("Sequence", "Split")
    assert all("type" in step for name in ("pretokenizers", "normalizers") for step in state.get(name, ()))
