"""Where a text can be cut so that its pieces tokenize, each on its own, to the tokens of the whole.

A tokenizer (`AddedVocabulary::extract_and_normalize`, tokenizers 0.23) first takes added tokens out of the text: those
that are not `normalized` from the text itself, then the others from what the normalizer made of each piece between.
Only the pieces go on to the pre-tokenizer and the model, each for itself. So a text may be cut at such a token, unless
a flag of some token lets that one reach past its own characters. Within a piece, `word_breaks` says where to cut.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeAlias

from tokenizers import AddedToken, Tokenizer

from service.prompts.tokens.word_breaks import LOOKAHEAD, Breaks, safe_breaks

_CHUNK = 1024
"""Characters after which a piece is cut at the next safe place."""

_WINDOW = 16_384
"""Characters looked through for added tokens at a time."""

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
"""Those that treat each piece for itself, but for the scheme "first" of Metaspace, which asks where a piece stands."""

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
"""A stretch of a text, from where to where: an added token by its id, or text (None) that tokenizes on its own."""


class Words(NamedTuple):
    """How a piece without added tokens is cut into words, each of which tokenizes on its own."""

    find: Callable[[str], list[str]]
    separator: str
    """An added token, by its id, that is found between any two words."""
    separator_id: int


class Segmentation:
    """The cuts of one tokenizer's texts."""

    def __init__(
        self, first: _Cuts, second: _Cuts, breaks: Breaks | None, context: str | None, words: Words | None
    ) -> None:
        self._first = first
        self._second = second
        self._breaks = breaks
        self.context = context
        """A token to put before a piece that does not start the text, where that makes a difference."""
        self.words = words
        """How to cut a piece into its words, wherever it stands, if that can be done."""
        self.lookahead = 2 * max(first.longest, second.longest) + LOOKAHEAD
        """A cut is settled once that many characters after it are known, whatever follows them."""

    def segments(self, text: str, start: int = 0) -> Iterable[Segment]:
        """Gives the segments of the text from `start`, which must be 0 or the end of a segment."""
        segments = self._first.cut(text, start, len(text))
        if self._second.cuts:
            segments = _within(segments, lambda start, end: self._second.cut(text, start, end))
        if (breaks := self._breaks) is not None:
            segments = _within(segments, lambda start, end: _chunks(text, start, end, breaks.last))
        return segments


def segmentation_of(tokenizer: Tokenizer) -> Segmentation | None:
    """Gives the cuts that are safe for a tokenizer, or None when none are known to be."""
    normalizers = list(_types(_state(tokenizer.normalizer), "normalizers"))
    pre_tokenizer = _state(tokenizer.pre_tokenizer)
    steps = list(_types(pre_tokenizer, "pretokenizers"))
    if (
        tokenizer.encode_special_tokens
        or type(tokenizer.model).__name__ not in _MODELS
        or getattr(tokenizer.model, "dropout", None)
        or not _NORMALIZERS.issuperset(step["type"] for step in normalizers)
        or not _PRE_TOKENIZERS.issuperset(step["type"] for step in steps)
    ):
        return None
    added = tokenizer.get_added_tokens_decoder()
    first = _Cuts({number: token for number, token in added.items() if not token.normalized})
    late = {number: token for number, token in added.items() if token.normalized}
    second = _Cuts(late if not normalizers and first.takes_all else {})
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
    return Segmentation(first, second, breaks, context, words)


class _Cuts:
    """Cuts at the added tokens of one of the two rounds."""

    def __init__(self, tokens: Mapping[int, AddedToken]) -> None:
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
        """Whether there is anything to cut at."""
        return self._pattern is not None

    def cut(self, text: str, start: int, end: int) -> Iterable[Segment]:
        """Gives the tokens in text[start:end] and the pieces between them."""
        at = start if self._pattern is not None else end
        while at < end:
            # A window at a time, since a search holds up every other thread until it finds something.
            stop = min(at + _WINDOW, end)
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

    def plainest(self, added: Iterable[AddedToken]) -> str | None:
        """Gives a token of this round that is the start of no other, whatever follows it."""
        contents = [token.content for token in added]
        for content in self._numbers:
            if sum(other.startswith(content) for other in contents) == 1:
                return content
        return None

    def separator(self, added: Iterable[AddedToken]) -> tuple[str, int] | None:
        """Gives a token of this round, and its id, that is found wherever it is put between texts that hold no token.

        So it is: no other token starts before it and goes on into it, or starts as it does and goes on after it.
        """
        contents = [token.content for token in added]
        # The last, since the first may be the one that stands for the unknown.
        for content, number in reversed(self._numbers.items()):
            if all(content == other or not _touches(other, content) for other in contents):
                return content, number
        return None


def _touches(content: str, start: str) -> bool:
    """Whether some of a token, but for its first character, may be the first of `start`, or the whole starts as it."""
    return start in content or any(start.startswith(content[n:]) for n in range(1, len(content)))


def _reaches(token: AddedToken) -> bool:
    """Whether a token takes white space around it along, or looks at what stands there."""
    return token.lstrip or token.rstrip or token.single_word


def _within(segments: Iterable[Segment], cut: Callable[[int, int], Iterable[Segment]]) -> Iterable[Segment]:
    for segment in segments:
        start, end, token = segment
        if token is None:
            yield from cut(start, end)
        else:
            yield segment


def _chunks(text: str, start: int, end: int, last: re.Pattern[str]) -> Iterable[Segment]:
    at = start + _CHUNK
    while at < end:
        stop = at + _WINDOW
        found = last.search(text, at, min(stop + LOOKAHEAD, end))
        if found is None:
            at = stop
        else:
            yield start, found.end(), None
            start = found.end()
            at = start + _CHUNK
    yield start, end, None


def _may_hold_a_break(content: str) -> bool:
    """Whether a token may reach over a place at which a piece may be cut."""
    return re.search(r". |\n.", content, re.DOTALL) is not None


def _pattern(contents: Iterable[str]) -> str:
    """A pattern that finds the longest of the leftmost: as fast as its tree is narrow."""
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
    """A part of a tokenizer, as tokenizer.json describes it."""
    return None if part is None else json.loads(part.__getstate__())


def _types(part: Mapping[str, Any] | None, members: str) -> Iterator[Mapping[str, Any]]:
    """The parts of a part, out of any sequences of them."""
    if part is None:
        return
    if part["type"] == "Sequence":
        for member in part[members]:
            yield from _types(member, members)
    else:
        yield part
