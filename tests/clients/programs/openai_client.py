"""The `openai` package."""

from __future__ import annotations

import json
from typing import Any, Literal

from openai import OpenAI
from pydantic import BaseModel

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, EMBEDDING_MODEL, TOOL_MODEL

client = OpenAI(base_url=f"{steps.URL}/v1", api_key=steps.KEY, max_retries=0)
QUESTION: list[Any] = [{"role": "user", "content": steps.QUESTION}]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "get_weather", "parameters": steps.WEATHER_SCHEMA}}
]


class City(BaseModel):
    city: Literal["Oslo", "Bergen"]
    people: Literal["few", "many"]


def models() -> None:
    assert CHAT_MODEL in {model.id for model in client.models.list()}
    assert client.models.retrieve(CHAT_MODEL).id == CHAT_MODEL


def chat() -> None:
    answer = client.chat.completions.create(model=CHAT_MODEL, messages=QUESTION, max_completion_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage


def stream() -> None:
    chunks = list(
        client.chat.completions.create(
            model=CHAT_MODEL,
            messages=QUESTION,
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    steps.check_stream(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)
    assert chunks[-1].usage


def tool_call() -> None:
    messages: list[Any] = [{"role": "user", "content": steps.WEATHER_QUESTION}]
    called = client.chat.completions.create(
        model=TOOL_MODEL, messages=messages, tools=TOOLS, tool_choice="required"
    ).choices[0]
    assert called.finish_reason == "tool_calls"
    [call] = called.message.tool_calls or []
    assert call.type == "function"
    steps.check_arguments(call.function.arguments)
    messages += [called.message, {"role": "tool", "tool_call_id": call.id, "content": steps.WEATHER}]
    answer = client.chat.completions.create(model=TOOL_MODEL, messages=messages, tools=TOOLS)
    assert answer.choices[0].message.content == steps.ANSWER


def streamed_tool_call() -> None:
    with client.chat.completions.stream(
        model=TOOL_MODEL, messages=[{"role": "user", "content": steps.WEATHER_QUESTION}], tools=TOOLS
    ) as events:
        called = events.get_final_completion().choices[0]
    assert called.finish_reason == "tool_calls"
    [call] = called.message.tool_calls or []
    steps.check_arguments(call.function.arguments)


def structured_output() -> None:
    answer = client.chat.completions.parse(
        model=CHAT_MODEL,
        messages=[{"role": "user", "content": steps.CITY_QUESTION}],
        response_format=City,
    )
    steps.check_city(answer.choices[0].message.parsed)


def responses() -> None:
    answer = client.responses.create(model=CHAT_MODEL, input=steps.QUESTION, max_output_tokens=8, store=False)
    assert answer.output_text
    parsed = client.responses.parse(model=CHAT_MODEL, input=steps.CITY_QUESTION, text_format=City)
    steps.check_city(parsed.output_parsed)


def streamed_responses() -> None:
    with client.responses.stream(model=CHAT_MODEL, input=steps.CITY_QUESTION, text_format=City) as events:
        steps.check_stream(event.delta for event in events if event.type == "response.output_text.delta")
        steps.check_city(events.get_final_response().output_parsed)


def responses_tool_call() -> None:
    tools: list[Any] = [
        {"type": "function", "name": "get_weather", "parameters": steps.WEATHER_SCHEMA, "strict": False}
    ]
    turns: list[Any] = [{"role": "user", "content": steps.WEATHER_QUESTION}]
    called = client.responses.create(model=TOOL_MODEL, input=turns, tools=tools, tool_choice="required")
    [call] = [item for item in called.output if item.type == "function_call"]
    steps.check_arguments(call.arguments)
    result = json.dumps({"weather": steps.WEATHER})
    turns += [*called.output, {"type": "function_call_output", "call_id": call.call_id, "output": result}]
    assert client.responses.create(model=TOOL_MODEL, input=turns, tools=tools).output_text == steps.ANSWER


def completion() -> None:
    assert client.completions.create(model=CHAT_MODEL, prompt="One, two,", max_tokens=4).choices[0].text


def embeddings() -> None:
    found = client.embeddings.create(model=EMBEDDING_MODEL, input=["one", "two"])
    steps.check_vectors([item.embedding for item in found.data])


if __name__ == "__main__":
    steps.run_steps(
        models,
        chat,
        stream,
        tool_call,
        streamed_tool_call,
        structured_output,
        responses,
        streamed_responses,
        responses_tool_call,
        completion,
        embeddings,
    )
