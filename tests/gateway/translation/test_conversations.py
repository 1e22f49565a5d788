"""Whole conversations through the translators, with the stand-ins' models behind them; streams cut anywhere."""

from __future__ import annotations

import json
from typing import Any

import pytest

from llb.gateway.translation.chat_profile import ChatProfile, profile_of
from llb.gateway.translation.chat_to_messages import translate_chat_request
from llb.gateway.translation.messages_to_chat import translate_messages_request
from tests.gateway.translation.validation import (
    chat_of_events,
    chat_of_message,
    check_chat_request,
    check_messages_request,
    message_of_chat,
    message_of_chunks,
)
from tests.providers import brain
from tests.providers.dialects import anthropic as anthropic_side
from tests.providers.dialects import openai as openai_side
from tests.providers.dialects.openai import Style

MODEL = "claude-sonnet-5"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "It tells.", "parameters": SCHEMA},
}
TOOL = {"name": "weather", "description": "It tells.", "input_schema": SCHEMA}
USER = {"role": "user", "content": "weather in two cities, aloud"}


def ask_anthropic(body: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """A chat with Anthropic behind it; returns the assistant's message as its client has it."""
    question = check_messages_request(translate_chat_request(body, MODEL).document)
    answer = brain.answer(question)
    if stream:
        completion = chat_of_events(anthropic_side.message_events(MODEL, answer))
    else:
        completion = chat_of_message(anthropic_side.message_document(MODEL, answer))
    assert completion.choices[0].finish_reason == answer.finish
    return completion.choices[0].message.model_dump(exclude_none=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("effort", [None, "high"])
def test_a_chat_with_parallel_tools_at_anthropic(*, stream: bool, effort: str | None) -> None:
    body: dict[str, Any] = {"messages": [USER], "tools": [CHAT_TOOL], "reasoning_effort": effort}
    turn = ask_anthropic(body, stream=stream)
    assert turn["content"] == "Let me look."
    assert ("reasoning_content" in turn) == (effort is not None)
    arguments = [json.loads(call["function"]["arguments"]) for call in turn["tool_calls"]]
    assert arguments == [{"city": "city 0", "days": 7}, {"city": "city 1", "days": 7}]
    results = [
        {"role": "tool", "tool_call_id": call["id"], "content": f"sunny {number}"}
        for number, call in enumerate(turn["tool_calls"])
    ]
    last = ask_anthropic({**body, "messages": [USER, turn, *results]}, stream=stream)
    assert last["content"] == "Results: sunny 0; sunny 1"


def ask_chat(body: dict[str, Any], profile: ChatProfile, style: Style, *, stream: bool) -> dict[str, Any]:
    """A message with an OpenAI-compatible target behind it; returns the assistant's turn."""
    question = check_chat_request(translate_messages_request(body, "m", profile).document, style)
    answer = brain.answer(question)
    if stream:
        message = message_of_chunks(openai_side.chat_chunks("m", answer, style, include_usage=True))
    else:
        message = message_of_chat(openai_side.chat_document("m", answer, style))
    assert message.usage.input_tokens == answer.prompt_tokens
    assert message.usage.output_tokens == answer.completion_tokens
    return {
        "role": "assistant",
        "content": [block.model_dump(exclude_none=True) for block in message.content],
    }


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", ["openai", "google", "vllm", "ollama"])
def test_messages_with_parallel_tools_at_other_targets(kind: str, *, stream: bool) -> None:
    from tests.providers import KINDS

    style = KINDS[kind].style
    body: dict[str, Any] = {
        "messages": [USER],
        "system": "Be brief.",
        "max_tokens": 100,
        "tools": [TOOL],
        "thinking": {"type": "enabled", "budget_tokens": 2048},
    }
    turn = ask_chat(body, profile_of(kind), style, stream=stream)
    calls = [block for block in turn["content"] if block["type"] == "tool_use"]
    assert [call["input"] for call in calls] == [{"city": "city 0", "days": 7}, {"city": "city 1", "days": 7}]
    results = [
        {
            "type": "tool_result",
            "tool_use_id": call["id"],
            "content": [{"type": "text", "text": f"sunny {n}"}],
        }
        for n, call in enumerate(calls)
    ]
    last = ask_chat(
        {**body, "messages": [USER, turn, {"role": "user", "content": results}]},
        profile_of(kind),
        style,
        stream=stream,
    )
    assert last["content"][-1]["text"] == "Results: sunny 0; sunny 1"


# --- streams ----------------------------------------------------------------------------------------------
