#!/usr/bin/env python3
"""Writes service/prompts/tokens/tokenizer_classes.json: the tokenizer class that transformers loads for a model type,
and the model types that have a processor.

Run it with a Python that has the transformers release pinned by vLLM.
"""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from transformers.models.auto import processing_auto
from transformers.models.auto import tokenization_auto as auto

OUTPUT = Path(__file__).resolve().parents[1] / "service" / "prompts" / "tokens" / "tokenizer_classes.json"


def main() -> None:
    by_model_type = {
        model_type: name.removesuffix("Fast")
        for model_type, name in sorted(auto.TOKENIZER_MAPPING_NAMES.items())
        if name
    }
    classes = {
        "transformers": transformers.__version__,
        "by_model_type": by_model_type,
        "incorrect_on_hub": sorted(auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS),
        "backend_by_name": auto.MODEL_IDS_TO_TOKENIZERS_BACKEND,
        "with_processor": sorted(processing_auto.PROCESSOR_MAPPING_NAMES),
    }
    OUTPUT.write_text(json.dumps(classes, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
