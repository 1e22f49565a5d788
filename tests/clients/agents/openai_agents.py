"""The `openai-agents` package, which streams Responses unless configured to use chats."""

from __future__ import annotations

import asyncio

from agents import (
    Agent,
    Model,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, TOOL_MODEL

# The model answers it in one sentence. The package takes an answer that was cut off for an error.
QUESTION = "What is the capital of France?"

set_tracing_disabled(True)


def make_models(name: str) -> list[Model]:
    """Return the model `name` of llb by Responses and by chats."""

    def make_client() -> AsyncOpenAI:
        # Connections belong to the event loop of one run.
        return AsyncOpenAI(base_url=f"{steps.URL}/v1", api_key=steps.KEY, max_retries=0)

    return [
        OpenAIResponsesModel(name, openai_client=make_client()),
        OpenAIChatCompletionsModel(name, openai_client=make_client()),
    ]


@function_tool  # type: ignore[untyped-decorator]
def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"It rains in {city}."


def make_agent(model: Model, *, has_tools: bool) -> Agent[None]:
    """Return an agent, with the weather as its tool."""
    tools = [get_weather] if has_tools else []
    return Agent(
        "llb", model=model, tools=list(tools), model_settings=ModelSettings(max_tokens=1000, temperature=0)
    )


def chat() -> None:
    for model in make_models(CHAT_MODEL):
        assert Runner.run_sync(make_agent(model, has_tools=False), QUESTION).final_output


def stream() -> None:
    async def stream_from(model: Model) -> list[str]:
        result = Runner.run_streamed(make_agent(model, has_tools=False), QUESTION)
        return [
            event.data.delta
            async for event in result.stream_events()
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent)
        ]

    for model in make_models(CHAT_MODEL):
        steps.check_stream(asyncio.run(stream_from(model)))


def tool_call() -> None:
    for model in make_models(TOOL_MODEL):
        result = Runner.run_sync(make_agent(model, has_tools=True), steps.WEATHER_QUESTION)
        assert result.final_output == steps.ANSWER, result.final_output


def streamed_tool_call() -> None:
    async def run(model: Model) -> str:
        result = Runner.run_streamed(make_agent(model, has_tools=True), steps.WEATHER_QUESTION)
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    for model in make_models(TOOL_MODEL):
        output = asyncio.run(run(model))
        assert output == steps.ANSWER, output


if __name__ == "__main__":
    steps.run_steps(chat, stream, tool_call, streamed_tool_call)
