"""The `anthropic` package."""

from __future__ import annotations

from typing import Any, Literal

from anthropic import Anthropic
from pydantic import BaseModel

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, TOOL_MODEL

client = Anthropic(base_url=steps.URL, api_key=steps.KEY, max_retries=0)
QUESTION: list[Any] = [{"role": "user", "content": steps.QUESTION}]
TOOLS: list[Any] = [{"name": "get_weather", "description": "", "input_schema": steps.WEATHER_SCHEMA}]


class City(BaseModel):
    city: Literal["Oslo", "Bergen"]
    people: Literal["few", "many"]


def models() -> None:
    assert CHAT_MODEL in {model.id for model in client.models.list()}


def chat() -> None:
    answer = client.messages.create(
        model=CHAT_MODEL,
        max_tokens=8,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=QUESTION,
    )
    assert answer.content[0].type == "text"
    assert answer.content[0].text


def stream() -> None:
    with client.messages.stream(model=CHAT_MODEL, max_tokens=8, messages=QUESTION) as events:
        steps.check_stream(events.text_stream)
        assert events.get_final_message().usage.output_tokens


def tool_call() -> None:
    messages: list[Any] = [{"role": "user", "content": steps.WEATHER_QUESTION}]
    called = client.messages.create(
        model=TOOL_MODEL, max_tokens=200, messages=messages, tools=TOOLS, tool_choice={"type": "any"}
    )
    assert called.stop_reason == "tool_use"
    [call] = [block for block in called.content if block.type == "tool_use"]
    steps.check_arguments(call.input)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": steps.WEATHER}
    messages += [{"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(model=TOOL_MODEL, max_tokens=200, messages=messages, tools=TOOLS)
    assert [block.text for block in answer.content if block.type == "text"] == [steps.ANSWER]


def streamed_tool_call() -> None:
    with client.messages.stream(
        model=TOOL_MODEL,
        max_tokens=200,
        messages=[{"role": "user", "content": steps.WEATHER_QUESTION}],
        tools=TOOLS,
    ) as events:
        called = events.get_final_message()
    assert called.stop_reason == "tool_use"
    [call] = [block for block in called.content if block.type == "tool_use"]
    steps.check_arguments(call.input)


def structured_output() -> None:
    answer = client.messages.parse(
        model=CHAT_MODEL,
        max_tokens=100,
        messages=[{"role": "user", "content": steps.CITY_QUESTION}],
        output_format=City,
    )
    steps.check_city(answer.parsed_output)


def count_tokens() -> None:
    assert client.messages.count_tokens(model=CHAT_MODEL, messages=QUESTION).input_tokens > 2


if __name__ == "__main__":
    steps.run_steps(models, chat, stream, tool_call, streamed_tool_call, structured_output, count_tokens)
