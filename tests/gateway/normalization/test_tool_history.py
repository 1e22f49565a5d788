"""Tool calls of earlier turns as text."""

from __future__ import annotations

from llb.wire import TemplateSupport
from tests.gateway.normalization.normalizing import ANTHROPIC, CHAT, RESPONSES, sent

NO_TOOLS = TemplateSupport(tools=False)


def test_calls_of_earlier_turns_are_text_for_a_template_without_tools() -> None:
    call = {"id": "c", "function": {"name": "f", "arguments": '{"a":1}'}}
    result = {"role": "tool", "tool_call_id": "c", "content": "r"}
    text, answer = 'Tool call: {"name":"f","arguments":{"a":1}}', "Result of f:\nr"
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "x", "tool_calls": [call]}]
    chat = sent(CHAT, {"messages": [*turns, result]}, NO_TOOLS)["messages"]
    assert [(message["role"], message["content"]) for message in chat] == [
        ("user", "u"), ("assistant", f"x\n\n{text}"), ("user", answer)
    ]  # fmt: skip
    items = [
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c", "output": "r"},
    ]
    found = sent(RESPONSES, {"input": items}, NO_TOOLS)["input"]
    assert [item["role"] for item in found] == ["assistant", "user"]
    assert found[0]["content"][0]["text"] == text
    assert found[1]["content"] == answer
    use = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}
    tool_result = {"type": "tool_result", "tool_use_id": "c", "content": "r"}
    messages = [{"role": "assistant", "content": [use]}, {"role": "user", "content": [tool_result]}]
    found = sent(ANTHROPIC, {"messages": messages}, NO_TOOLS)["messages"]
    assert [message["content"] for message in found] == [
        [{"type": "text", "text": text}], [{"type": "text", "text": answer}]
    ]  # fmt: skip
