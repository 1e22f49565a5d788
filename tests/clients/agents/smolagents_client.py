"""The `smolagents` package."""

from __future__ import annotations

from smolagents import ChatMessage, OpenAIServerModel, ToolCallingAgent, tool
from smolagents.monitoring import LogLevel

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, TOOL_MODEL


@tool  # type: ignore[untyped-decorator]
def get_weather(city: str) -> str:
    """Return the weather in a city.

    Args:
        city: its name
    """
    return f"It rains in {city}."


def make_model(name: str) -> OpenAIServerModel:
    """Return a model of llb."""
    return OpenAIServerModel(
        model_id=name, api_base=f"{steps.URL}/v1", api_key=steps.KEY, max_tokens=100, retry=False
    )


def chat() -> None:
    assert make_model(CHAT_MODEL).generate([ChatMessage("user", steps.QUESTION)]).content


def stream() -> None:
    pieces = make_model(CHAT_MODEL).generate_stream([ChatMessage("user", steps.QUESTION)])
    steps.check_stream(piece.content for piece in pieces)


def tool_call() -> None:
    agent = ToolCallingAgent(
        tools=[get_weather], model=make_model(TOOL_MODEL), max_steps=1, verbosity_level=LogLevel.OFF
    )
    agent.run(steps.WEATHER_QUESTION)
    assert any(steps.WEATHER in str(step) for step in agent.memory.get_full_steps())


if __name__ == "__main__":
    steps.run_steps(chat, stream, tool_call)
