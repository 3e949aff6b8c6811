"""The tokenizer that `AutoTokenizer` loads, which is not always the one in tokenizer.json.

transformers decides by config.json and tokenizer_config.json which class to load
(`AutoTokenizer.from_pretrained`, transformers 5.19, which vLLM 0.32 and 0.33 accept). Most classes take tokenizer.json
as it is; those with an `__init__` of their own take its vocabulary and merges only, and rebuild the normalizer and the
pre-tokenizer (`TokenizersBackend.convert_to_native_format`).
"""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

BACKEND = "TokenizersBackend"
_TAKE_THE_FILE = frozenset({BACKEND, "PythonBackend", "PreTrainedTokenizer", "PreTrainedTokenizerFast"})
_MISTRAL = "MistralCommonBackend"

_Json: TypeAlias = dict[str, Any]

_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN3_5 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class _Table(NamedTuple):
    """service/prompts/tokens/tokenizer_classes.json, written by scripts/tokenizer_classes.py."""

    by_model_type: Mapping[str, str]
    incorrect_on_hub: frozenset[str]
    backend_by_name: tuple[str, ...]
    with_processor: frozenset[str]


@cache
def _table() -> _Table:
    classes = json.loads(Path(__file__).with_name("tokenizer_classes.json").read_text(encoding="utf-8"))
    return _Table(
        classes["by_model_type"],
        frozenset(classes["incorrect_on_hub"]),
        tuple(classes["backend_by_name"]),
        frozenset(classes["with_processor"]),
    )


def tokenizer_class(name: str, model_config: Mapping[str, Any], tokenizer_config: Mapping[str, Any]) -> str:
    """Returns the class that AutoTokenizer loads for a model, without the suffix "Fast".

    `model_config` is config.json, `tokenizer_config` tokenizer_config.json. Without config.json it is BACKEND.
    """
    if not model_config:
        return BACKEND
    table = _table()
    if any(fnmatch.fnmatch(name.lower(), pattern) for pattern in table.backend_by_name):
        return BACKEND
    model_type = _text(model_config.get("model_type"))
    registered = table.by_model_type.get(model_type)
    declared = _text(tokenizer_config.get("tokenizer_class")) or _text(model_config.get("tokenizer_class"))
    declared = declared.removesuffix("Fast") if declared != "PreTrainedTokenizerFast" else declared
    if not declared:
        return registered or BACKEND
    if registered is None or registered == declared:
        return declared
    if registered in _TAKE_THE_FILE or registered == _MISTRAL:
        return BACKEND
    return registered if model_type in table.incorrect_on_hub else declared


def has_processor(model_config: Mapping[str, Any], *others: Mapping[str, Any]) -> bool:
    """Whether AutoProcessor loads a processor with a model, not only its tokenizer.

    `others` are the configurations of the processor, of its parts, and of the tokenizer.
    """
    return _text(model_config.get("model_type")) in _table().with_processor or any(
        isinstance(one.get("processor_class"), str) or _maps_a_processor(one.get("auto_map")) for one in others
    )


def _maps_a_processor(auto_map: Any) -> bool:
    return isinstance(auto_map, dict) and "AutoProcessor" in auto_map


def is_rebuilt(class_name: str) -> bool:
    """Whether a class may take less than all of tokenizer.json: False if `rebuilt` returns it as it is, and known."""
    return class_name not in _TAKE_THE_FILE and class_name not in _WITHOUT_OWN_INIT


class Rebuilt(NamedTuple):
    """A tokenizer.json as its class uses it; `known` is False for an unsupported class."""

    tokenizer: _Json
    known: bool


def rebuilt(tokenizer: _Json, class_name: str, tokenizer_config: Mapping[str, Any]) -> Rebuilt:
    """Returns tokenizer.json with the changes that the class makes."""
    if not is_rebuilt(class_name):
        return Rebuilt(tokenizer, known=True)
    rebuild = _REBUILD.get(class_name)
    model = tokenizer.get("model")
    if rebuild is None or not isinstance(model, dict) or model.get("type", "BPE") != "BPE":
        return Rebuilt(tokenizer, known=False)
    built = {**tokenizer, **rebuild(model, tokenizer_config)}
    if class_name == "CodeLlamaTokenizer":
        built["post_processor"] = _prepends(_token(tokenizer_config, "bos_token", "<s>"), built)
    return Rebuilt(built, known=True)


def _llama(model: _Json, config: Mapping[str, Any]) -> _Json:
    if not _adds_prefix_space(config, default=True):
        scheme = "never"
    else:
        scheme = "always" if config.get("legacy", False) else "first"
    bpe = {**_bpe(model), "fuse_unk": True, "byte_fallback": True}
    return {"model": bpe, "normalizer": None, "pre_tokenizer": _metaspace(scheme), "decoder": _spm_decoder()}


def _code_llama(model: _Json, config: Mapping[str, Any]) -> _Json:
    scheme = "first" if _adds_prefix_space(config, default=True) else "never"
    bpe = {**_bpe(model), "fuse_unk": True, "byte_fallback": True, "unk_token": _token(config, "unk_token", "<unk>")}
    return {"model": bpe, "normalizer": None, "pre_tokenizer": _metaspace(scheme), "decoder": _spm_decoder()}


def _gemma(model: _Json, config: Mapping[str, Any]) -> _Json:
    bpe = {**_bpe(model), "fuse_unk": True, "byte_fallback": True, "unk_token": _token(config, "unk_token", "<unk>")}
    split = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    return {"model": bpe, "normalizer": replace, "pre_tokenizer": split, "decoder": _spm_decoder(strip=False)}


def _gpt2(model: _Json, config: Mapping[str, Any]) -> _Json:
    bytes_ = _byte_level(config, use_regex=True)
    return {"model": _bpe(model, affixes=True), "normalizer": None, "pre_tokenizer": bytes_, "decoder": _byte_level({})}


def _gpt_neox(model: _Json, config: Mapping[str, Any]) -> _Json:
    # The class updates the post-processor; add_bos_token and add_eos_token do not reach it (transformers #47988).
    nothing = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {},
    }
    return {**_gpt2(model, config), "normalizer": {"type": "NFC"}, "post_processor": nothing}


def _cohere(model: _Json, config: Mapping[str, Any]) -> _Json:
    digits = {"type": "Digits", "individual_digits": True}
    steps = {"type": "Sequence", "pretokenizers": [digits, _byte_level(config, use_regex=True)]}
    return {**_gpt2(model, config), "normalizer": {"type": "NFC"}, "pre_tokenizer": steps}


def _qwen(pattern: str) -> Callable[[_Json, Mapping[str, Any]], _Json]:
    def build(model: _Json, config: Mapping[str, Any]) -> _Json:
        split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        steps = {"type": "Sequence", "pretokenizers": [split, _byte_level(config, use_regex=False)]}
        return {**_gpt2(model, config), "normalizer": {"type": "NFC"}, "pre_tokenizer": steps}

    return build


_REBUILD: Mapping[str, Callable[[_Json, Mapping[str, Any]], _Json]] = {
    "CodeLlamaTokenizer": _code_llama,
    "CohereTokenizer": _cohere,
    "GPT2Tokenizer": _gpt2,
    "GPTNeoXTokenizer": _gpt_neox,
    "GemmaTokenizer": _gemma,
    "LlamaTokenizer": _llama,
    "Qwen2Tokenizer": _qwen(_QWEN2),
    "Qwen3_5Tokenizer": _qwen(_QWEN3_5),
}
_WITHOUT_OWN_INIT = frozenset({"ParakeetTokenizer"})

_DEFAULT_TOKENS: Mapping[str, Mapping[str, str]] = {
    "CodeLlamaTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "prefix_token": "▁<PRE>",
        "middle_token": "▁<MID>",
        "suffix_token": "▁<SUF>",
        "eot_token": "▁<EOT>",
        "fill_token": "<FILL_ME>",
    },
    "CohereTokenizer": {
        "unk_token": "<UNK>",
        "bos_token": "<BOS_TOKEN>",
        "eos_token": "<|END_OF_TURN_TOKEN|>",
        "pad_token": "<PAD>",
        "cls_token": "<CLS>",
        "sep_token": "<SEP>",
        "mask_token": "<MASK_TOKEN>",
    },
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
    "GPTNeoXTokenizer": {
        **dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>"),
        "pad_token": "<|padding|>",
    },
    "GemmaTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
    "Qwen3_5Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>"),
}


def default_tokens(class_name: str) -> Mapping[str, str]:
    """The default special tokens of a class; tokenizer_config.json overrides them."""
    return _DEFAULT_TOKENS.get(class_name, {})


def _bpe(model: _Json, *, affixes: bool = False) -> _Json:
    vocabulary = model.get("vocab") or {}
    if isinstance(vocabulary, list):
        vocabulary = {entry[0] if isinstance(entry, list) else entry: n for n, entry in enumerate(vocabulary)}
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": "" if affixes else None,
        "end_of_word_suffix": "" if affixes else None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": vocabulary,
        "merges": model.get("merges") or [],
    }


def _prepends(token: str, tokenizer: _Json) -> _Json | None:
    """A post-processor that prepends a token to each text; None if the tokenizer does not have the token."""
    added = {one["content"]: one["id"] for one in tokenizer.get("added_tokens") or ()}
    number = added.get(token, tokenizer["model"]["vocab"].get(token))
    if number is None:
        return None
    special = {"SpecialToken": {"id": token, "type_id": 0}}
    first, second = ({"Sequence": {"id": text, "type_id": 0}} for text in "AB")
    return {
        "type": "TemplateProcessing",
        "single": [special, first],
        "pair": [special, first, special, second],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }


def _metaspace(scheme: str) -> _Json:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}


def _byte_level(config: Mapping[str, Any], *, use_regex: bool = True) -> _Json:
    return {
        "type": "ByteLevel",
        "add_prefix_space": _adds_prefix_space(config, default=False),
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def _spm_decoder(*, strip: bool = True) -> _Json:
    steps: list[_Json] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if strip:
        steps.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {"type": "Sequence", "decoders": steps}


def _adds_prefix_space(config: Mapping[str, Any], *, default: bool) -> bool:
    value = config.get("add_prefix_space")
    return default if value is None else bool(value)


def _token(config: Mapping[str, Any], name: str, default: str) -> str:
    value = config.get(name, default)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else default


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
