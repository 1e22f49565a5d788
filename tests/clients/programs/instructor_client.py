"""The `instructor` package: structured output by each of its modes."""

from __future__ import annotations

from typing import Any, Literal

import instructor
from anthropic import Anthropic
from openai import OpenAI
from pydantic import BaseModel

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, TOOL_MODEL

openai = OpenAI(base_url=f"{steps.URL}/v1", api_key=steps.KEY, max_retries=0)
CITY_QUESTION: list[Any] = [{"role": "user", "content": steps.CITY_QUESTION}]
WEATHER_QUESTION: list[Any] = [{"role": "user", "content": steps.WEATHER_QUESTION}]


class City(BaseModel):
    city: Literal["Oslo", "Bergen"]
    people: Literal["few", "many"]


class get_weather(BaseModel):
    """The weather in a city."""

    city: str


def extract(mode: Any) -> Any:
    """Return a city that the model generated in `mode`."""
    client = instructor.from_openai(openai, mode=mode)
    return client.chat.completions.create(
        model=CHAT_MODEL, messages=CITY_QUESTION, response_model=City, max_retries=0, max_tokens=100
    )


def structured_output() -> None:
    steps.check_city(extract(instructor.Mode.JSON_SCHEMA))


def tool_call() -> None:
    client = instructor.from_openai(openai, mode=instructor.Mode.TOOLS)
    found = client.chat.completions.create(
        model=TOOL_MODEL, messages=WEATHER_QUESTION, response_model=get_weather, max_retries=0
    )
    steps.check_arguments(found.model_dump())


def anthropic_tool_call() -> None:
    anthropic = Anthropic(base_url=steps.URL, api_key=steps.KEY, max_retries=0)
    client = instructor.from_anthropic(anthropic, mode=instructor.Mode.ANTHROPIC_TOOLS)
    found = client.chat.completions.create(
        model=TOOL_MODEL,
        messages=WEATHER_QUESTION,
        response_model=get_weather,
        max_retries=0,
        max_tokens=200,
    )
    steps.check_arguments(found.model_dump())


def stream() -> None:
    client = instructor.from_openai(openai, mode=instructor.Mode.JSON_SCHEMA)
    parts = list(
        client.chat.completions.create_partial(
            model=CHAT_MODEL, messages=CITY_QUESTION, response_model=City, max_retries=0, max_tokens=100
        )
    )
    assert len(parts) > 1
    steps.check_city(parts[-1])


if __name__ == "__main__":
    steps.run_steps(structured_output, tool_call, anthropic_tool_call, stream)
