"""Cuts a text into segments that tokenize separately to the tokens of the whole text.

A text is cut at added tokens, and within the pieces between them where `word_breaks` allows it. docs/prompts.md proves
that this is safe (lemmas 1 to 3).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec
from tokenizers import Tokenizer

from service.prompts.tokens.word_breaks import LOOKAHEAD, Breaks, safe_breaks


class CutSizes(NamedTuple):
    """Characters after which a piece is cut at the next safe place, and characters searched per call."""

    piece: int = 2048
    window: int = 16_384
    """A regular expression holds the GIL until it matches or reaches the end of its input."""


_DEFAULT_SIZES = CutSizes()

_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^`{|}~")

_PRE_TOKENIZERS = frozenset(
    {
        "BertPreTokenizer",
        "ByteLevel",
        "CharDelimiterSplit",
        "Digits",
        "Metaspace",
        "Punctuation",
        "Split",
        "UnicodeScripts",
        "Whitespace",
        "WhitespaceSplit",
    }
)
"""Pre-tokenizers that treat each piece independently (but Metaspace's scheme "first" depends on a piece's position)."""

_NORMALIZERS = frozenset(
    {
        "BertNormalizer",
        "ByteLevel",
        "Lowercase",
        "NFC",
        "NFD",
        "NFKC",
        "NFKD",
        "Nmt",
        "Precompiled",
        "Prepend",
        "Replace",
        "Strip",
        "StripAccents",
    }
)

_MODELS = frozenset({"BPE", "Unigram", "WordLevel", "WordPiece"})


Segment: TypeAlias = tuple[int, int, int | None]
"""Start and end in the text, and the id of the added token there; None for text that tokenizes separately."""


class Words(NamedTuple):
    """How a piece without added tokens is cut into words that tokenize separately."""

    find: Callable[[str], list[str]]
    separator: str
    """An added token, and its id, that is recognized between any two words."""
    separator_id: int


class Segmentation:
    """The safe cuts of one tokenizer."""

    def __init__(
        self,
        first: _Cuts,
        second: _Cuts,
        *,
        breaks: Breaks | None,
        context: str | None,
        words: Words | None,
        sizes: CutSizes,
    ) -> None:
        self._sizes = sizes
        self._first = first
        self._second = second
        self._breaks = breaks
        self.context = context
        """An added token to put before a piece that does not start the text, where position matters."""
        self.words = words
        """The rule for cutting any piece into words; None if no rule is known to be safe."""
        self.lookahead = 2 * max(first.longest, second.longest) + LOOKAHEAD
        """A cut is settled, whatever text follows, once this many characters after it are known (lemma 3)."""

    def segments(self, text: str, start: int = 0) -> Iterable[Segment]:
        """Yields the segments of the text from `start`, which must be 0 or the end of a segment."""
        segments = self._first.cut(text, start, len(text))
        if self._second.cuts:
            segments = _within(segments, lambda start, end: self._second.cut(text, start, end))
        if (breaks := self._breaks) is not None:
            segments = _within(segments, lambda start, end: _pieces(text, start, end, breaks.last, self._sizes))
        return segments


class Added(msgspec.Struct, frozen=True):
    """An added token, as tokenizer.json describes it."""

    content: str
    lstrip: bool
    rstrip: bool
    single_word: bool
    normalized: bool


class CutRules(msgspec.Struct, frozen=True):
    """The parts of a tokenizer that decide where texts may be cut; steps are in tokenizer.json's form."""

    is_regular: bool
    """Whether its model is a known one, tokenizes equal texts equally, and special tokens are recognized in texts."""
    normalizer: dict[str, Any] | None
    pre_tokenizer: dict[str, Any] | None
    added: dict[int, Added]


def cut_rules_of(tokenizer: Tokenizer) -> CutRules:
    """Returns the rules of a tokenizer."""
    return CutRules(
        not tokenizer.encode_special_tokens
        and type(tokenizer.model).__name__ in _MODELS
        and not getattr(tokenizer.model, "dropout", None),
        _state(tokenizer.normalizer),
        _state(tokenizer.pre_tokenizer),
        {
            number: Added(token.content, token.lstrip, token.rstrip, token.single_word, token.normalized)
            for number, token in tokenizer.get_added_tokens_decoder().items()
        },
    )


def segmentation_of(rules: CutRules, sizes: CutSizes = _DEFAULT_SIZES) -> Segmentation | None:
    """Returns the safe cuts of a tokenizer; None if none are known."""
    normalizers = list(_types(rules.normalizer, "normalizers"))
    pre_tokenizer = rules.pre_tokenizer
    steps = list(_types(pre_tokenizer, "pretokenizers"))
    if (
        not rules.is_regular
        or not _NORMALIZERS.issuperset(step["type"] for step in normalizers)
        or not _PRE_TOKENIZERS.issuperset(step["type"] for step in steps)
    ):
        return None
    added = rules.added
    first = _Cuts({number: token for number, token in added.items() if not token.normalized}, sizes.window)
    late = {number: token for number, token in added.items() if token.normalized}
    second = _Cuts(late if not normalizers and first.takes_all else {}, sizes.window)
    hidden = [] if second.takes_all and not normalizers else list(late.values())
    breaks = None
    if (
        first.takes_all
        and second.takes_all
        and all(step["type"] == "NFC" for step in normalizers)
        and not any(_reaches(token) or _may_hold_a_break(token.content) for token in hidden)
    ):
        breaks = safe_breaks(pre_tokenizer)
    context = None
    if any(step["type"] == "Metaspace" and step.get("prepend_scheme") == "first" for step in steps):
        context = first.plainest(added.values())
        if context is None:
            return None
    separator = first.separator(added.values())
    words = None
    if breaks is not None and context is None and separator is not None:
        words = Words(breaks.words, *separator)
    return Segmentation(first, second, breaks=breaks, context=context, words=words, sizes=sizes)


class _Cuts:
    """Cuts at the added tokens of one of the two rounds."""

    def __init__(self, tokens: Mapping[int, Added], window: int) -> None:
        self._window = window
        self.takes_all = not any(_reaches(token) for token in tokens.values())
        self.longest = max((len(token.content) for token in tokens.values()), default=0)
        self._numbers = {
            token.content: number
            for number, token in tokens.items()
            if not _reaches(token)
            and (self.takes_all or _PUNCTUATION.issuperset((token.content[0], token.content[-1])))
        }
        contents = [token.content for token in tokens.values()]
        self._pattern = re.compile(_pattern(contents)) if self._numbers else None

    @property
    def cuts(self) -> bool:
        """Whether any cut is possible."""
        return self._pattern is not None

    def cut(self, text: str, start: int, end: int) -> Iterable[Segment]:
        """Yields the tokens in text[start:end] and the pieces between them."""
        at = start if self._pattern is not None else end
        while at < end:
            stop = min(at + self._window, end)
            matches = self._pattern.finditer(text, at, min(stop + self.longest, end)) if self._pattern else ()
            at = stop
            for match in matches:
                found, after = match.span()
                if found >= stop:
                    break
                at = max(stop, after)
                number = self._numbers.get(match[0])
                if number is None:
                    continue
                if start < found:
                    yield start, found, None
                yield found, after, number
                start = after
        if start < end:
            yield start, end, None

    def plainest(self, added: Iterable[Added]) -> str | None:
        """Returns a token of this round that is not a prefix of another token."""
        contents = [token.content for token in added]
        for content in self._numbers:
            if sum(other.startswith(content) for other in contents) == 1:
                return content
        return None

    def separator(self, added: Iterable[Added]) -> tuple[str, int] | None:
        """Returns a token of this round, and its id, that is recognized between any two texts without tokens.

        No other token overlaps its start or continues it (lemma 2).
        """
        contents = [token.content for token in added]
        # In reverse, since the first may be the unknown token.
        for content, number in reversed(self._numbers.items()):
            if all(content == other or not _touches(other, content) for other in contents):
                return content, number
        return None


def _touches(content: str, start: str) -> bool:
    """Whether a proper suffix of `content` is a prefix of `start`, or `content` contains `start`."""
    return start in content or any(start.startswith(content[n:]) for n in range(1, len(content)))


def _reaches(token: Added) -> bool:
    """Whether a token absorbs or inspects the characters around it."""
    return token.lstrip or token.rstrip or token.single_word


def _within(segments: Iterable[Segment], cut: Callable[[int, int], Iterable[Segment]]) -> Iterable[Segment]:
    for segment in segments:
        start, end, token = segment
        if token is None:
            yield from cut(start, end)
        else:
            yield segment


def _pieces(text: str, start: int, end: int, last: re.Pattern[str], sizes: CutSizes) -> Iterable[Segment]:
    at = start + sizes.piece
    while at < end:
        stop = at + sizes.window
        found = last.search(text, at, min(stop + LOOKAHEAD, end))
        if found is None:
            at = stop
        else:
            yield start, found.end(), None
            start = found.end()
            at = start + sizes.piece
    yield start, end, None


def _may_hold_a_break(content: str) -> bool:
    """Whether a token may span a safe place."""
    return re.search(r". |\n.", content, re.DOTALL) is not None


def _pattern(contents: Iterable[str]) -> str:
    """A pattern, built as a prefix tree, that finds the leftmost-longest token."""
    tree: dict[str, Any] = {}
    for content in contents:
        node = tree
        for character in content:
            node = node.setdefault(character, {})
        node[""] = {}
    return _branch(tree)


def _branch(tree: Mapping[str, Any]) -> str:
    branches = []
    for start, below in tree.items():
        text, node = start, below
        while len(node) == 1 and "" not in node:
            ((character, node),) = node.items()
            text += character
        if start:
            branches.append(re.escape(text) + (_branch(node) if node.keys() - {""} else ""))
    body = f"(?:{'|'.join(branches)})"
    return f"{body}?" if "" in tree else body


def _state(part: Any) -> dict[str, Any] | None:
    """A component of a tokenizer, as tokenizer.json describes it."""
    return None if part is None else json.loads(part.__getstate__())


def _types(part: Mapping[str, Any] | None, members: str) -> Iterator[Mapping[str, Any]]:
    """The flattened list of components, without sequences."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for member in part[members]:
            yield from _types(member, members)
    else:
        yield part
