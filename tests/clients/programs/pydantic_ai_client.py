"""The `pydantic-ai` package, with its models for the dialects of OpenAI and Anthropic."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, TOOL_MODEL


class City(BaseModel):
    city: Literal["Oslo", "Bergen"]
    people: Literal["few", "many"]


def make_models(name: str) -> list[Model]:
    """Return the model `name` of llb in each dialect."""
    openai = OpenAIProvider(base_url=f"{steps.URL}/v1", api_key=steps.KEY)
    return [
        OpenAIChatModel(name, provider=openai),
        OpenAIResponsesModel(name, provider=openai),
        AnthropicModel(name, provider=AnthropicProvider(base_url=steps.URL, api_key=steps.KEY)),
    ]


def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"It rains in {city}."


def chat() -> None:
    for model in make_models(CHAT_MODEL):
        assert Agent(model).run_sync(steps.QUESTION, model_settings={"max_tokens": 30}).output


def stream() -> None:
    async def stream_from(model: Model) -> list[str]:
        async with Agent(model).run_stream(steps.QUESTION, model_settings={"max_tokens": 30}) as result:
            return [piece async for piece in result.stream_text(delta=True, debounce_by=None)]

    for model in make_models(CHAT_MODEL):
        steps.check_stream(asyncio.run(stream_from(model)))


def tool_call() -> None:
    for model in make_models(TOOL_MODEL):
        agent: Agent[Any, str] = Agent(model, tools=[get_weather])
        result = agent.run_sync(steps.WEATHER_QUESTION)
        assert result.output == steps.ANSWER, result.output
        parts = [part for message in result.all_messages() for part in message.parts]
        assert [part.content for part in parts if part.part_kind == "tool-return"] == [steps.WEATHER]


def structured_output() -> None:
    for model in make_models(CHAT_MODEL)[:2]:
        agent = Agent(model, output_type=NativeOutput(City), retries=0)
        steps.check_city(agent.run_sync(steps.CITY_QUESTION).output)


if __name__ == "__main__":
    steps.run_steps(chat, stream, tool_call, structured_output)
