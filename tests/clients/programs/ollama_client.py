"""The `ollama` package."""

from __future__ import annotations

import json
from typing import Any

from ollama import Client

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, EMBEDDING_MODEL, TOOL_MODEL

client = Client(steps.URL, headers={"Authorization": f"Bearer {steps.KEY}"}, trust_env=False)
QUESTION = [{"role": "user", "content": steps.QUESTION}]


def get_weather(city: str) -> str:
    """Return the weather in a city.

    Args:
        city: its name
    """
    return f"It rains in {city}."


def models() -> None:
    assert f"{CHAT_MODEL}:latest" in {model.model for model in client.list().models}
    assert "completion" in (client.show(CHAT_MODEL).capabilities or [])


def chat() -> None:
    assert client.chat(CHAT_MODEL, QUESTION, options={"num_predict": 8}).message.content


def stream() -> None:
    chunks = list(client.chat(CHAT_MODEL, QUESTION, options={"num_predict": 8}, stream=True))
    steps.check_stream(chunk.message.content for chunk in chunks)
    assert chunks[-1].done


def tool_call() -> None:
    messages: list[Any] = [{"role": "user", "content": steps.WEATHER_QUESTION}]
    called = client.chat(TOOL_MODEL, messages, tools=[get_weather]).message
    [call] = called.tool_calls or []
    steps.check_arguments(call.function.arguments)
    result = get_weather(**call.function.arguments)
    messages += [called, {"role": "tool", "tool_name": "get_weather", "content": result}]
    assert client.chat(TOOL_MODEL, messages, tools=[get_weather]).message.content == steps.ANSWER


def streamed_tool_call() -> None:
    messages = [{"role": "user", "content": steps.WEATHER_QUESTION}]
    chunks = client.chat(TOOL_MODEL, messages, tools=[get_weather], stream=True)
    [call] = [call for chunk in chunks for call in chunk.message.tool_calls or []]
    steps.check_arguments(call.function.arguments)


def structured_output() -> None:
    messages = [{"role": "user", "content": steps.CITY_QUESTION}]
    answer = client.chat(CHAT_MODEL, messages, format=steps.CITY_SCHEMA, options={"num_predict": 100})
    steps.check_city(json.loads(answer.message.content or ""))


def completion() -> None:
    assert client.generate(CHAT_MODEL, "Say hello.", options={"num_predict": 4}).response


def embeddings() -> None:
    steps.check_vectors(list(client.embed(EMBEDDING_MODEL, ["one", "two"]).embeddings))


if __name__ == "__main__":
    steps.run_steps(
        models, chat, stream, tool_call, streamed_tool_call, structured_output, completion, embeddings
    )
