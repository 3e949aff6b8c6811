"""Sends requests with LiteLLM's client to a base URL, and prints the answers as JSON.

python litellm_chat.py URL MODEL
"""

from __future__ import annotations

import json
import sys

import litellm

TIDE = {
    "type": "function",
    "function": {
        "name": "tide",
        "parameters": {"type": "object", "properties": {"harbour": {"type": "string"}}, "required": ["harbour"]},
    },
}


def main(url: str, model: str) -> None:
    common = {"model": f"openai/{model}", "api_base": url, "api_key": "none", "num_retries": 0}
    messages = [{"role": "user", "content": "When does the ferry leave?"}]
    whole = litellm.completion(**common, messages=messages)
    stream = litellm.completion(**common, messages=messages, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    streamed = litellm.stream_chunk_builder(chunks)
    called = litellm.completion(**common, messages=messages, tools=[TIDE], tool_choice="required")
    embedded = litellm.embedding(**common, input=["crane", "ferry"])
    print(
        json.dumps(
            {
                "whole": whole.choices[0].message.content,
                "streamed": streamed.choices[0].message.content,
                "usage": [whole.usage.prompt_tokens, streamed.usage.prompt_tokens],
                "called": [
                    (call.function.name, list(json.loads(call.function.arguments)))
                    for call in called.choices[0].message.tool_calls
                ],
                "vectors": [len(item["embedding"]) for item in embedded.data],
            }
        )
    )


main(*sys.argv[1:])
