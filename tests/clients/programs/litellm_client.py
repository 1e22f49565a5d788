"""The `litellm` package, through each provider that can be pointed at a server of one's own."""

from __future__ import annotations

import json
from typing import Any

import litellm

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, EMBEDDING_MODEL, TOOL_MODEL

QUESTION = [{"role": "user", "content": steps.QUESTION}]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": steps.WEATHER_SCHEMA}}]
# Provider and base URL, as LiteLLM documents them.
PROVIDERS = {
    "openai": f"{steps.URL}/v1",
    "hosted_vllm": f"{steps.URL}/v1",
    "lm_studio": f"{steps.URL}/v1",
    "anthropic": steps.URL,
    "ollama_chat": steps.URL,
}


def complete(provider: str, model: str, messages: list[Any], **fields: Any) -> Any:
    """Return an answer of llb through `provider`."""
    return litellm.completion(
        model=f"{provider}/{model}",
        api_base=PROVIDERS[provider],
        api_key=steps.KEY,
        messages=messages,
        max_retries=0,
        **fields,
    )


def chat() -> None:
    for provider in PROVIDERS:
        assert complete(provider, CHAT_MODEL, QUESTION, max_tokens=8).choices[0].message.content, provider


def stream() -> None:
    for provider in PROVIDERS:
        chunks = complete(
            provider, CHAT_MODEL, QUESTION, max_tokens=8, stream=True, stream_options={"include_usage": True}
        )
        steps.check_stream(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)


def tool_call() -> None:
    for provider in PROVIDERS:
        messages: list[Any] = [{"role": "user", "content": steps.WEATHER_QUESTION}]
        choice = {} if provider == "ollama_chat" else {"tool_choice": "required"}
        called = complete(provider, TOOL_MODEL, messages, tools=TOOLS, **choice).choices[0].message
        [call] = called.tool_calls
        steps.check_arguments(call.function.arguments)
        messages += [called, {"role": "tool", "tool_call_id": call.id, "content": steps.WEATHER}]
        answer = complete(provider, TOOL_MODEL, messages, tools=TOOLS).choices[0].message
        assert answer.content == steps.ANSWER, (provider, answer)


def structured_output() -> None:
    for provider in ("openai", "hosted_vllm", "ollama_chat"):
        answer = complete(
            provider,
            CHAT_MODEL,
            [{"role": "user", "content": steps.CITY_QUESTION}],
            max_tokens=100,
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "city", "schema": steps.CITY_SCHEMA, "strict": True},
            },
        )
        steps.check_city(json.loads(answer.choices[0].message.content))


def responses() -> None:
    answer = litellm.responses(
        model=f"openai/{CHAT_MODEL}",
        api_base=f"{steps.URL}/v1",
        api_key=steps.KEY,
        input=steps.QUESTION,
        max_output_tokens=8,
    )
    assert answer.output_text


def embeddings() -> None:
    # The provider `ollama` sends no key with embeddings; llb's Ollama port needs none.
    found = litellm.embedding(
        model=f"openai/{EMBEDDING_MODEL}",
        api_base=f"{steps.URL}/v1",
        api_key=steps.KEY,
        input=["one", "two"],
    )
    steps.check_vectors([item["embedding"] for item in found.data])


if __name__ == "__main__":
    steps.run_steps(chat, stream, tool_call, structured_output, responses, embeddings)
