"""The names of the files of a model that determine its prompts."""

from __future__ import annotations

TOKENIZER = "tokenizer.json"
CONFIG = "tokenizer_config.json"
MODEL_CONFIG = "config.json"
PROCESSOR_CONFIG = "processor_config.json"
PROCESSOR_CONFIGS = (PROCESSOR_CONFIG, "preprocessor_config.json", "video_preprocessor_config.json")
SPECIAL_TOKENS = "special_tokens_map.json"
TEMPLATE = "chat_template.jinja"
PROCESSOR_TEMPLATE = "chat_template.json"
NAMED_TEMPLATES = "additional_chat_templates"
MISTRAL_TOKENIZERS = ("tekken.json", "tokenizer.model.v*")
MISTRAL_WEIGHTS = "consolidated*.safetensors"
TOKENIZERS = (TOKENIZER, *MISTRAL_TOKENIZERS)
"""A model needs one of these."""

FILE_PATTERNS = (
    TOKENIZER,
    CONFIG,
    MODEL_CONFIG,
    SPECIAL_TOKENS,
    TEMPLATE,
    PROCESSOR_TEMPLATE,
    *PROCESSOR_CONFIGS,
    *MISTRAL_TOKENIZERS,
    f"{NAMED_TEMPLATES}/*.jinja",
)
"""The only files that are downloaded: no weights."""
