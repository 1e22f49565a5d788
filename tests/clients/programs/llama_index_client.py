"""The packages `llama-index-llms-openai-like` and `llama-index-embeddings-openai-like`."""

from __future__ import annotations

from typing import Any, Literal

from llama_index.core.llms import ChatMessage, MessageRole
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike
from pydantic import BaseModel

from tests.clients.programs import steps
from tests.clients.programs.steps import CHAT_MODEL, EMBEDDING_MODEL, TOOL_MODEL


class City(BaseModel):
    """A city."""

    city: Literal["Oslo", "Bergen"]
    people: Literal["few", "many"]


def get_weather(city: str) -> str:
    """Return the weather in a city."""
    return f"It rains in {city}."


def make_model(name: str, max_tokens: int, **settings: Any) -> OpenAILike:
    """Return a chat model of llb."""
    return OpenAILike(
        model=name,
        api_base=f"{steps.URL}/v1",
        api_key=steps.KEY,
        max_tokens=max_tokens,
        max_retries=0,
        is_chat_model=True,
        is_function_calling_model=True,
        context_window=4096,
        **settings,
    )


def chat() -> None:
    assert make_model(CHAT_MODEL, 8).chat([ChatMessage(steps.QUESTION)]).message.content


def stream() -> None:
    steps.check_stream(
        piece.delta for piece in make_model(CHAT_MODEL, 8).stream_chat([ChatMessage(steps.QUESTION)])
    )


def completion() -> None:
    model = OpenAILike(
        model=CHAT_MODEL,
        api_base=f"{steps.URL}/v1",
        api_key=steps.KEY,
        max_tokens=4,
        max_retries=0,
        is_chat_model=False,
    )
    assert model.complete("One, two,").text


def tool_call() -> None:
    model = make_model(TOOL_MODEL, 200)
    tool = FunctionTool.from_defaults(get_weather)
    turns = [ChatMessage(steps.WEATHER_QUESTION)]
    called = model.chat_with_tools([tool], chat_history=turns, tool_required=True)
    [call] = model.get_tool_calls_from_response(called)
    steps.check_arguments(call.tool_kwargs)
    result = ChatMessage(
        str(tool(**call.tool_kwargs)),
        role=MessageRole.TOOL,
        additional_kwargs={"tool_call_id": call.tool_id},
    )
    answer = model.chat_with_tools([tool], chat_history=[*turns, called.message, result])
    assert answer.message.content == steps.ANSWER


def structured_output() -> None:
    model = make_model(CHAT_MODEL, 100, should_use_structured_outputs=True)
    steps.check_city(model.as_structured_llm(City).complete(steps.CITY_QUESTION).raw)


def embeddings() -> None:
    model = OpenAILikeEmbedding(
        model_name=EMBEDDING_MODEL, api_base=f"{steps.URL}/v1", api_key=steps.KEY, max_retries=0
    )
    steps.check_vectors(model.get_text_embedding_batch(["one", "two"]))


if __name__ == "__main__":
    steps.run_steps(chat, stream, completion, tool_call, structured_output, embeddings)
