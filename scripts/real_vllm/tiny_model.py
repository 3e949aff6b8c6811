"""A model of random weights with a real tokenizer, for tests of whole engines: its answers are fast nonsense, but its
prefix cache, events, template and tokens are those of a real engine.

    python scripts/real_vllm/tiny_model.py TOKENIZER_FOLDER OUT KIND [--lora FOLDER]

Runs in the environment that scripts/real_vllm/install creates. For chats the kind must be the tokenizer's own, since
`model_type` selects the tokenizer class.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

_WINDOW = 128
_LORA_RANK = 8
_SIZE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def configurations() -> dict[str, Callable[..., Any]]:
    """Makes a configuration from the size of the vocabulary, by kind."""
    import transformers  # noqa: PLC0415 - takes seconds to load

    def of(config: type[Any], **more: Any) -> Callable[..., Any]:
        return lambda vocabulary: config(**{**_SIZE, "vocab_size": vocabulary, **more})

    return {
        "granite": of(transformers.GraniteConfig),
        "llama": of(transformers.LlamaConfig, head_dim=32),
        "qwen3": of(transformers.Qwen3Config, head_dim=32),
        "sliding": of(transformers.MistralConfig, head_dim=32, sliding_window=_WINDOW),
        "gemma3": of(
            transformers.Gemma3TextConfig,
            head_dim=32,
            num_hidden_layers=6,
            sliding_window=_WINDOW,
            sliding_window_pattern=6,
        ),
        "gpt_oss": of(transformers.GptOssConfig, head_dim=32, num_local_experts=4, num_experts_per_tok=2),
    }


def vocabulary(folder: Path) -> int:
    """Number of token ids in a tokenizer.json."""
    document = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    entries = document["model"]["vocab"]
    highest: int = max(entries.values()) if isinstance(entries, dict) else len(entries) - 1
    added: list[int] = [token["id"] for token in document.get("added_tokens", [])]
    return 1 + max([highest, *added])


def write_model(source: Path, out: Path, kind: str) -> None:
    """Writes a model folder with the tokenizer of `source`."""
    import torch  # noqa: PLC0415
    import transformers  # noqa: PLC0415

    out.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copyfile(path, out / path.name)
    torch.manual_seed(1)
    config = configurations()[kind](vocabulary(source))
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(out)


def write_lora(model: Path, out: Path) -> None:
    """Writes a LoRA adapter of random weights for the query projections of a model from this script."""
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    width = config["hidden_size"]
    heads = config["num_attention_heads"] * config.get("head_dim", width // config["num_attention_heads"])
    weights = {}
    for layer in range(config["num_hidden_layers"]):
        name = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        weights[f"{name}.lora_A.weight"] = torch.randn(_LORA_RANK, width)
        weights[f"{name}.lora_B.weight"] = torch.randn(heads, _LORA_RANK)
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "adapter_model.safetensors")
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(model),
        "r": _LORA_RANK,
        "lora_alpha": _LORA_RANK,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": ["q_proj"],
    }
    (out / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer", type=Path, help="folder with tokenizer.json")
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("kind", choices=["granite", "llama", "qwen3", "sliding", "gemma3", "gpt_oss"])
    parser.add_argument("--lora", type=Path, help="folder for a LoRA adapter of the model")
    arguments = parser.parse_args()
    write_model(arguments.tokenizer, arguments.out, arguments.kind)
    if arguments.lora:
        write_lora(arguments.out, arguments.lora)


if __name__ == "__main__":
    main()
