"""The Jinja environment of chat templates, with the same names as in transformers."""

from __future__ import annotations

import json
import types
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import nodes
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace, missing

from service.prompts.templates.field_reads import DICT_ATTRIBUTES, FieldReads
from service.prompts.templates.loops import LOOP_FIELDS, ListLoop


class Generation(Extension):
    """`{% generation %}`, which marks the assistant's text for training; here it only renders its body."""

    tags = {"generation"}  # noqa: RUF012 - declared so by jinja2

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_enclose"), [], [], body).set_lineno(line)

    def _enclose(self, caller: Macro) -> str:
        return caller()


class _Dict:
    """The `dict` of a template: only its two constructors, no other attribute of the class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class ChatNamespace(Namespace):
    """A namespace that rejects names with a leading underscore, which could not be read back."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, rest = args[0], args[1:]
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            _check_name(name)
        object.__getattribute__(self, _NAMESPACE)[name] = value


_NAMESPACE = "_Namespace__attrs"
"""The private dict in which jinja2 stores the values of a namespace."""

_MOST_UNDEFINED_FIELDS = 1000

_LOOPS = (ListLoop, LoopContext)
_SAFE_DICT_METHODS = frozenset({"get", "items", "keys", "values"})
_SAFE_STR_METHODS = frozenset(name for name in dir(str) if not name.startswith(("_", "format")))


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace may not hold the name {name!r}")


def too_many(characters: int) -> str:
    """The failure of a template that renders more than this number of characters."""
    return f"it renders more than {characters} characters"


def raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def strftime_now(format: str) -> str:  # noqa: A002 - a name that templates use
    return datetime.now().strftime(format)


def tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """Renders like `_cached_compile_jinja_template` in transformers 5.20.

    The attributes that templates use most are known to be safe, and skip the sandbox's slow check.
    """

    code_generator_class = FieldReads

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
        self.filters["tojson"] = tojson
        self._undefined_fields: dict[str, Undefined] = {}
        self.globals |= {
            "raise_exception": raise_exception,
            "strftime_now": strftime_now,
            "dict": _Dict(),
            "namespace": ChatNamespace,
        }

    def getattr(self, obj: Any, attribute: str) -> Any:
        kind = type(obj)
        if kind is dict:
            if attribute not in DICT_ATTRIBUTES:
                try:
                    return obj[attribute]
                except KeyError:
                    return self._absent(attribute)
            if attribute in _SAFE_DICT_METHODS:
                return getattr(obj, attribute)
        elif kind is ChatNamespace:
            value = object.__getattribute__(obj, _NAMESPACE).get(attribute, missing)
            if value is not missing:
                return value
        elif (kind is str and attribute in _SAFE_STR_METHODS) or (kind in _LOOPS and attribute in LOOP_FIELDS):
            return getattr(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return obj[argument]
        except KeyError:
            if type(obj) is dict and type(argument) is str and argument not in DICT_ATTRIBUTES:
                return self._absent(argument)
        except (TypeError, LookupError):
            pass
        return super().getitem(obj, argument)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        if type(obj) is not types.BuiltinMethodType:
            return super().call(context, obj, *args, **kwargs)
        kwargs.pop("_loop_vars", None)
        kwargs.pop("_block_vars", None)
        try:
            return obj(*args, **kwargs)
        except StopIteration:
            return self.undefined("value was undefined because a callable raised a StopIteration exception")

    def _absent(self, field: str) -> Undefined:
        """The undefined value of a missing field; shared, since all are equal."""
        absent = self._undefined_fields.get(field)
        if absent is None:
            absent = self.undefined(obj={}, name=field)
            if len(self._undefined_fields) < _MOST_UNDEFINED_FIELDS:
                self._undefined_fields[field] = absent
        return absent
