"""The `langchain-anthropic` package."""

from __future__ import annotations

from langchain_anthropic import ChatAnthropic

from tests.clients.programs import langchain_steps, steps
from tests.clients.programs.steps import CHAT_MODEL, TOOL_MODEL


def make_model(name: str, max_tokens: int) -> ChatAnthropic:
    """Return a chat model of llb."""
    return ChatAnthropic(
        model=name, base_url=steps.URL, api_key=steps.KEY, max_retries=0, max_tokens=max_tokens
    )


def chat() -> None:
    langchain_steps.check_chat(make_model(CHAT_MODEL, 8))


def stream() -> None:
    langchain_steps.check_stream(make_model(CHAT_MODEL, 8))


def tool_call() -> None:
    langchain_steps.check_tool_call(make_model(TOOL_MODEL, 200))


def structured_output() -> None:
    langchain_steps.check_structured_output(make_model(CHAT_MODEL, 100))


if __name__ == "__main__":
    steps.run_steps(chat, stream, tool_call, structured_output)
