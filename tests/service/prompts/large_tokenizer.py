"""A tokenizer.json as large as the largest of real models."""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers.pre_tokenizers import ByteLevel

_TOKENS = 390_000


def write_large_tokenizer(folder: Path) -> int:
    """Writes a byte-level BPE of 390,000 tokens with a chat template; returns the bytes of tokenizer.json."""
    letters = sorted(ByteLevel.alphabet())
    random_ = random.Random(1)
    pairs = random_.sample([(a, b) for a in letters for b in letters], 1024)
    two = [a + b for a, b in pairs]
    fours = random_.sample([(a, b) for a in two for b in two], _TOKENS)
    tokens = dict.fromkeys([*letters, *two, *(a + b for a, b in fours)])
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    end = {"content": "<|end|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    described = {
        "version": "1.0",
        "added_tokens": [{"id": len(tokens), "special": True, **end}],
        "normalizer": None,
        "pre_tokenizer": bytes_,
        "post_processor": None,
        "decoder": bytes_,
        "model": {
            "type": "BPE",
            "vocab": {token: number for number, token in enumerate(tokens)},
            "merges": [*pairs, *fours],
        },
    }
    (folder / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}<|end|>{% endfor %}")
    return (folder / "tokenizer.json").write_text(json.dumps(described, indent=1))
