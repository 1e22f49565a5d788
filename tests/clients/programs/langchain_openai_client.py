"""The `langchain-openai` package."""

from __future__ import annotations

from typing import Any

from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from tests.clients.programs import langchain_steps, steps
from tests.clients.programs.steps import CHAT_MODEL, EMBEDDING_MODEL, TOOL_MODEL


def make_model(name: str, max_tokens: int, **settings: Any) -> ChatOpenAI:
    """Return a chat model of llb."""
    common: dict[str, Any] = {"base_url": f"{steps.URL}/v1", "api_key": steps.KEY, "max_retries": 0}
    return ChatOpenAI(**{"model": name, "max_tokens": max_tokens, **common, **settings})


def chat() -> None:
    langchain_steps.check_chat(make_model(CHAT_MODEL, 8))


def stream() -> None:
    langchain_steps.check_stream(make_model(CHAT_MODEL, 8))


def tool_call() -> None:
    langchain_steps.check_tool_call(make_model(TOOL_MODEL, 200))


def structured_output() -> None:
    langchain_steps.check_structured_output(make_model(CHAT_MODEL, 100))


def responses() -> None:
    langchain_steps.check_chat(make_model(CHAT_MODEL, 8, use_responses_api=True))
    langchain_steps.check_stream(make_model(CHAT_MODEL, 8, use_responses_api=True))
    langchain_steps.check_tool_call(make_model(TOOL_MODEL, 200, use_responses_api=True))
    langchain_steps.check_structured_output(make_model(CHAT_MODEL, 100, use_responses_api=True))


def embeddings() -> None:
    settings: dict[str, Any] = {"base_url": f"{steps.URL}/v1", "api_key": steps.KEY}
    embeddings = OpenAIEmbeddings(model=EMBEDDING_MODEL, check_embedding_ctx_length=False, **settings)
    steps.check_vectors(embeddings.embed_documents(["one", "two"]))


if __name__ == "__main__":
    steps.run_steps(chat, stream, tool_call, structured_output, responses, embeddings)
