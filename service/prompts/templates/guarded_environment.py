"""Renders what is quick, and gives up on all else before it can hurt.

A chat template comes from whoever published the model, a conversation from whoever asks. Most render in well under a
millisecond, which is not worth a trip to another process. So they are tried right here, in an environment in which no
single step takes long, and which looks at the clock between steps:

- the variables are weighed first; steps are linear in them, and there are no more steps than a template has nodes
  before a loop's or a macro's body, or a call, looks at the clock;
- text grows only by `+`, `~`, `|join` and captured output, and each of these looks at how long its result is;
- values do not nest in one another, which would let a few steps make a thing that is huge to print: lists do not
  grow, and a list, a tuple, a dict or a namespace that the template makes holds nothing that holds something;
- what is not on the short lists here (statements, filters, methods, functions, operators) is left to a process that
  can be killed.

Nothing here changes what a template renders: it renders the same, or `TooMuch` is raised and it starts anew elsewhere.
"""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import jinja2
import msgspec
from jinja2 import nodes
from jinja2.runtime import Context, Macro
from jinja2.sandbox import safe_range
from jinja2.utils import pass_context

from service.native.backend import Iteration
from service.prompts.templates.environment import (
    ChatEnvironment,
    ChatNamespace,
    Generation,
    raise_exception,
    strftime_now,
    tojson,
)
from service.prompts.templates.guarded_code import GuardedCode, loop
from service.prompts.templates.guarded_syntax import TooMuch, guard

_SECONDS = 0.010
"""How long a rendering may hold the event loop."""

_MOST_SOURCE = 32_768
_MOST_CHARACTERS = 1 << 20
_MOST_VARIABLE_BYTES = 1 << 18
_MOST_LEVELS = 24
_MOST_INDENT = 8
_MOST_FORMAT = 100

_FILTERS = frozenset(
    {
        *("capitalize", "count", "d", "default", "first", "items", "last", "length", "list", "lower", "map", "reject"),
        *("rejectattr", "select", "selectattr", "string", "trim", "upper"),
    }
)
_METHODS = frozenset(
    {
        *("capitalize", "casefold", "count", "endswith", "find", "get", "index", "isalnum", "isalpha", "isdecimal"),
        *("isdigit", "islower", "isnumeric", "isspace", "isupper", "items", "keys", "lower", "lstrip", "partition"),
        *("removeprefix", "removesuffix", "rfind", "rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines"),
        *("startswith", "strip", "title", "upper", "values"),
    }
)
_packer = msgspec.msgpack.Encoder()
_SCALARS = frozenset((str, bool, int, float, type(None)))


def _bounded_concat(pieces: Iterable[str]) -> str:
    output = tuple(pieces)
    if sum(map(len, output)) > _MOST_CHARACTERS:
        raise TooMuch
    return "".join(output)


class GuardedEnvironment(ChatEnvironment):
    """An environment for one thread, whose renderings end within `_SECONDS` or a few steps after it."""

    code_generator_class = GuardedCode
    iteration = Iteration
    loop = staticmethod(loop)
    intercepted_binops = frozenset(("*", "**", "%"))
    concat = staticmethod(_bounded_concat)

    def __init__(self) -> None:
        super().__init__()
        self._look_again = self._deadline = 0.0
        quick = {name: call if name in _FILTERS else _leave for name, call in self.filters.items()}
        self.filters = quick | {
            "_bounded": _bounded,
            "_flat": _flat,
            "_single": _single,
            "_tick": self._tick,
            "join": self._after_tick(_join),
            "tojson": self._after_tick(_tojson),
        }

    def compiled(self, source: str) -> jinja2.Template:
        """Gives a template to render; raises TooMuch for one that is not to be rendered here."""
        if len(source) > _MOST_SOURCE:
            raise TooMuch
        try:
            return self.from_string(source)
        except (SyntaxError, RecursionError, MemoryError):
            raise TooMuch from None  # nested deeper than Python code may be, other than what jinja2 makes of it

    def render(self, template: jinja2.Template, variables: dict[str, Any]) -> str:
        """Gives a template's text; raises TooMuch, and whatever the template raises."""
        _weigh(variables)
        self._look_again = time.monotonic() + _SECONDS
        self._deadline = time.thread_time() + _SECONDS
        return _bounded_concat(template.root_render_func(template.new_context(variables)))

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self._tick()
        kind = type(obj)
        if kind is types.BuiltinMethodType:
            allowed = obj.__name__ in _METHODS and type(obj.__self__) in (str, dict, list)
        elif kind is Macro:
            allowed = all(type(value) is not tuple for value in (*args, *kwargs.values()))
        elif obj is strftime_now:
            allowed = all(len(value) <= _MOST_FORMAT for value in args)
        elif obj is ChatNamespace:
            allowed = not args and all(type(value) is not ChatNamespace for value in kwargs.values())
        else:
            allowed = obj is safe_range or obj is raise_exception or _is_generation(obj)
        if not allowed:
            raise TooMuch
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and type(left) is int:
            return left % right
        raise TooMuch

    def call_filter(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self._tick()
        return super().call_filter(name, *args, **kwargs)

    def call_test(self, name: str, *args: Any, **kwargs: Any) -> Any:
        self._tick()
        return super().call_test(name, *args, **kwargs)

    @pass_context  # so that no constant is folded out of it
    def _tick(self, *_: Any) -> None:
        if time.monotonic() < self._look_again:
            return
        # Others may have had the processor meanwhile; what counts is what this thread took.
        left = self._deadline - time.thread_time()
        if left < 0:
            raise TooMuch
        self._look_again = time.monotonic() + left

    def _after_tick(self, work: Callable[..., str]) -> Callable[..., str]:
        def ticking(*args: Any, **kwargs: Any) -> str:
            self._tick()
            return work(*args, **kwargs)

        return ticking

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        guard(source)
        return super()._generate(source, *args, **kwargs)


def _is_generation(obj: Any) -> bool:
    return type(obj) is types.MethodType and isinstance(obj.__self__, Generation)


def _leave(*_: Any, **__: Any) -> NoReturn:
    raise TooMuch


def _weigh(variables: Mapping[str, Any]) -> None:
    """Raises TooMuch for variables that are large: packing them costs less than looking at them."""
    try:
        size = len(_packer.encode(variables))
    except (UnicodeEncodeError, OverflowError, RecursionError, TypeError):
        raise TooMuch from None
    if size > _MOST_VARIABLE_BYTES:
        raise TooMuch


def _check_depth(value: Any) -> None:
    level: list[Any] = [value]
    for _ in range(_MOST_LEVELS):
        below: list[Any] = []
        for member in level:
            if type(member) is dict:
                below += member.values()
            elif type(member) is list:
                below += member
        if not below:
            return
        level = below
    raise TooMuch


def _bounded(value: Any) -> Any:
    """Lets a sum pass that is a text of bearable length or a plain number."""
    kind = type(value)
    if (kind is str and len(value) <= _MOST_CHARACTERS) or kind is float:
        return value
    if kind is int and value.bit_length() <= 64:
        return value
    raise TooMuch


def _flat(value: Any) -> Any:
    members = value.values() if type(value) is dict else value
    if any(type(member) not in _SCALARS for member in members):
        raise TooMuch
    return value


def _single(value: Any) -> Any:
    """Lets pass what a namespace may hold: all but a namespace, and what may hold one."""
    if type(value) is ChatNamespace or type(value) is tuple:
        raise TooMuch
    return value


def _join(value: Any, d: str = "", attribute: str | int | None = None) -> str:
    members = list(value)
    if attribute is not None or type(d) is not str or any(type(member) is not str for member in members):
        raise TooMuch
    if sum(map(len, members)) + len(d) * len(members) > _MOST_CHARACTERS:
        raise TooMuch
    return d.join(members)


def _tojson(value: Any, *args: Any, **kwargs: Any) -> str:
    indent = kwargs.get("indent")
    if args or not (indent is None or (type(indent) is int and indent <= _MOST_INDENT)):
        raise TooMuch
    if indent is not None:
        _check_depth(value)
    return tojson(value, **kwargs)
