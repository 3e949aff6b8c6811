"""Sends requests with LangChain's client to a base URL, and prints the answers as JSON.

python langchain_chat.py URL MODEL
"""

from __future__ import annotations

import json
import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings


@tool  # type: ignore[untyped-decorator] # LangChain is not installed where types are checked
def tide(harbour: str) -> str:
    """The next high tide of a harbour."""
    return f"{harbour}: 06:30"


def main(url: str, model: str) -> None:
    chat = ChatOpenAI(base_url=url, api_key="none", model=model, max_retries=0, stream_usage=True)
    whole = chat.invoke("When does the ferry leave?")
    first, *others = chat.stream("When does the ferry leave?")
    streamed = sum(others, first)
    called = chat.bind_tools([tide], tool_choice="tide").invoke("When is high tide?")
    embeddings = OpenAIEmbeddings(base_url=url, api_key="none", model=model, check_embedding_ctx_length=False)
    vectors = embeddings.embed_documents(["crane", "ferry"])
    print(
        json.dumps(
            {
                "whole": whole.content,
                "streamed": streamed.content,
                "usage": [whole.usage_metadata["input_tokens"], streamed.usage_metadata["input_tokens"]],
                "called": [(call["name"], list(call["args"])) for call in called.tool_calls],
                "vectors": [len(vector) for vector in vectors],
            }
        )
    )


main(*sys.argv[1:])
