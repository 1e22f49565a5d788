"""Messages of chats."""

from __future__ import annotations

from typing import Any

import pytest

from llb.errors import InvalidRequest
from tests.gateway.normalization.normalizing import ANTHROPIC, CHAT, chat, normalize


@pytest.mark.parametrize("path", [CHAT, ANTHROPIC])
@pytest.mark.parametrize("messages", [[], "x", {}])
def test_messages_that_are_none(path: str, messages: Any) -> None:
    with pytest.raises(InvalidRequest) as refused:
        normalize(path, {"messages": messages})
    assert refused.value.details["param"] == "messages"


def test_several_answers_at_the_end_are_one() -> None:
    answers: list[dict[str, Any]] = [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": ["b"]},
    ]
    [message] = chat(*answers)
    assert message["content"] == [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]


def test_results_without_ids_follow_the_order_of_their_calls() -> None:
    messages = chat(
        {"role": "assistant", "tool_calls": [{"name": "f"}, {"name": "g"}, {"name": "f"}]},
        {"role": "tool", "name": "g", "content": "1"},
        {"role": "tool", "content": {"deg": 3}},
        {"role": "function", "name": "f", "content": [1, 2]},
    )
    assert [message.get("tool_call_id") for message in messages] == [None, "call_1", "call_0", "call_2"]
    assert [message["content"] for message in messages[1:]] == ["1", '{"deg":3}', "[1,2]"]


def test_the_predecessor_of_tool_calls() -> None:
    first, second = chat(
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "3"},
    )
    assert first["tool_calls"][0]["id"] == second["tool_call_id"]
    assert second["role"] == "tool"
