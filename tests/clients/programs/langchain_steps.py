"""Steps of every chat model of LangChain."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool

from tests.clients.programs import steps


@tool
def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"It rains in {city}."


def check_chat(model: Any) -> None:
    """Check a whole answer."""
    assert model.invoke(steps.QUESTION).text


def check_stream(model: Any) -> None:
    """Check a streamed answer."""
    steps.check_stream(chunk.text for chunk in model.stream(steps.QUESTION))


def check_tool_call(model: Any) -> None:
    """Check a call of a tool, and the answer to its result."""
    messages: list[Any] = [HumanMessage(steps.WEATHER_QUESTION)]
    bound = model.bind_tools([get_weather])
    called = bound.invoke(messages)
    [call] = called.tool_calls
    steps.check_arguments(call["args"])
    messages += [called, ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])]
    assert bound.invoke(messages).text == steps.ANSWER


def check_structured_output(model: Any, method: str = "json_schema") -> None:
    """Check a document of a schema."""
    steps.check_city(
        model.with_structured_output(steps.CITY_SCHEMA, method=method).invoke(steps.CITY_QUESTION)
    )
