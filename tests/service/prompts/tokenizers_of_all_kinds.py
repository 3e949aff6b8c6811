"""Small tokenizers with every kind of pipeline that a cut of the text might disturb."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests.service.prompts.texts import CORPUS

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
UNKNOWN = "<unk>"
SPECIAL = ("<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]")


def special(content: str, **flags: bool) -> AddedToken:
    return AddedToken(content, special=True, normalized=flags.pop("normalized", False), **flags)


def _byte_level(pre_tokenizer: Any, normalizer: Any = None, added: list[AddedToken] | None = None) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    _train(tokenizer, trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False))
    tokenizer.add_tokens([special(content) for content in SPECIAL] if added is None else added)
    return tokenizer


def _split(pattern: str) -> Any:
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )


def _metaspace(scheme: str, split: bool = True, before: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    last = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer.pre_tokenizer = last if before is None else pre_tokenizers.Sequence([before, last])
    trainer = trainers.UnigramTrainer(vocab_size=1000, unk_token=UNKNOWN, special_tokens=[UNKNOWN], show_progress=False)
    _train(tokenizer, trainer)
    tokenizer.add_tokens([special(content) for content in (*SPECIAL, "<s>b")])
    return tokenizer


def _llama2(*added: AddedToken) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    _train(tokenizer, trainers.BpeTrainer(vocab_size=600, special_tokens=[UNKNOWN], show_progress=False))
    tokenizer.add_tokens([*map(special, SPECIAL), *added])
    return tokenizer


def _bert() -> Tokenizer:
    names = ["[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(models.WordPiece(unk_token=names[0]))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    _train(tokenizer, trainers.WordPieceTrainer(vocab_size=700, special_tokens=names, show_progress=False))
    tokenizer.add_tokens([special("[MASK]", lstrip=True), special("[INST]")])
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return tokenizer


def _words() -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    _train(tokenizer, trainers.WordLevelTrainer(vocab_size=700, special_tokens=[UNKNOWN], show_progress=False))
    tokenizer.add_tokens([special(content) for content in SPECIAL])
    return tokenizer


def _train(tokenizer: Tokenizer, trainer: Any) -> None:
    tokenizer.train_from_iterator(CORPUS.splitlines(keepends=True), trainer)


def _gpt2(*added: AddedToken, normalizer: Any = None) -> Tokenizer:
    return _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer, list(added) or None)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt2": _gpt2,
    "gpt2 with a space before the text": lambda: _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "qwen": lambda: _byte_level(_split(QWEN), normalizers.NFC()),
    "o200k": lambda: _byte_level(_split(O200K)),
    "an unknown pattern": lambda: _byte_level(_split(r"\w+ \w+|\w+|\W+")),
    "digits and punctuation": lambda: _byte_level(
        pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(True), pre_tokenizers.Punctuation(), pre_tokenizers.ByteLevel(False, use_regex=True)]
        )
    ),
    "metaspace first": lambda: _metaspace("first"),
    "metaspace always": lambda: _metaspace("always"),
    "metaspace never": lambda: _metaspace("never"),
    "digits, then metaspace": lambda: _metaspace("always", before=pre_tokenizers.Digits(True)),
    "punctuation, then metaspace": lambda: _metaspace("first", before=pre_tokenizers.Punctuation()),
    "three digits, then metaspace": lambda: _metaspace(
        "never", before=pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated")
    ),
    "metaspace in one piece": lambda: _metaspace("first", split=False),
    "llama 2": _llama2,
    "llama 2 with tokens that are normalized": lambda: _llama2(AddedToken("foo"), AddedToken("<n>"), AddedToken("the")),
    "bert": _bert,
    "words": _words,
    "tokens that strip": lambda: _gpt2(
        special("<s>"),
        special("<l>", lstrip=True),
        special("<r>", rstrip=True),
        special("<b>", lstrip=True, rstrip=True),
    ),
    "tokens that are single words": lambda: _gpt2(special("<s>"), special("word", single_word=True), special("tok")),
    "tokens that are normalized": lambda: _gpt2(
        special("<s>"), AddedToken("<n>"), AddedToken("foo bar"), AddedToken("x "), special("[A]", normalized=True)
    ),
    "tokens that are normalized to something else": lambda: _gpt2(
        special("<s>"), AddedToken("É<n>"), AddedToken("a b"), normalizer=normalizers.Lowercase()
    ),
    "tokens normalized by composing": lambda: _gpt2(
        special("<s>"), AddedToken("e\u0301x"), AddedToken("of the"), AddedToken("n "), normalizer=normalizers.NFC()
    ),
    "tokens that are normalized and strip": lambda: _gpt2(
        special("<s>"), AddedToken("<n>", lstrip=True), AddedToken("<m>", single_word=True), AddedToken("<o>")
    ),
    "tokens that strip before tokens that are normalized": lambda: _gpt2(
        special("<r>", rstrip=True), AddedToken(" <n>"), AddedToken("\n"), AddedToken(" ")
    ),
    "tokens in tokens": lambda: _gpt2(
        special("<a>"),
        special("<a>b"),
        special("a>"),
        special("<a><a>"),
        special("<"),
        AddedToken(">b"),
        AddedToken("<a>c"),
    ),
    "tokens of white space": lambda: _gpt2(special("\n\n"), special("  "), special(" "), special("<r>", rstrip=True)),
    "tokens of letters": lambda: _gpt2(special("of"), special("the cat"), AddedToken("n a"), AddedToken("e")),
}
"""By what they show."""


@cache
def tokenizer_of(kind: str) -> Tokenizer:
    """Gives the tokenizer of a kind; the same each time."""
    return KINDS[kind]()
